"""Shows the local stack starting, and keeps it until it is told to stop."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column

from lookahead.client.client import Client
from lookahead.stack.stack import Stack, StackConfig
from rpc.contract import StartupPart
from rpc.health import health

NAMES = {"redis": "memory", "drafter": "drafter", "verifier": "verifier", "gateway": "gateway"}
# What the verifier does once its health service answers, and knows each part.
PHASES = {
    "": "loading the weights",
    StartupPart.WEIGHTS: "finding how drafts can be verified",
    StartupPart.FORM: "measuring this machine, once for each model",
    StartupPart.STEP_TIMES: "warming up",
}
READY = """
[bold green]Ready.[/] [bold]{model}[/] ({device}) speaks gRPC on [bold]{address}[/]{gateway}.
In another terminal:
  lookahead generate "The lighthouse was built in"
  lookahead check      [dim]the same words with drafting on and off?[/]
  lookahead chat
[dim]Logs are in {directory}. Ctrl-C stops everything.[/]
"""
GATEWAY = """
and OpenAI's API on [bold]{url}/v1[/]. Watch it draft: [bold]{url}/[/]"""


class StartUp:
    """A line for each process, with a spinner until it serves."""

    def __init__(self, console: Console, config: StackConfig) -> None:
        self._config = config
        self._ahead = list(PHASES)
        self._phase = "starting"
        self._tasks: dict[str, TaskID] = {}
        self.progress = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("[bold]{task.description:<9}"),
            BarColumn(bar_width=12),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[detail]}", table_column=Column(ratio=1, no_wrap=True)),
            console=console,
            expand=True,
        )

    def report(self, name: str, is_ready: bool) -> None:
        """Take the stack's word that a process was started or serves."""
        if name not in self._tasks:
            total = len(PHASES) + 1 if name == "verifier" else None
            self._tasks[name] = self.progress.add_task(NAMES[name], total=total, detail="")
        if is_ready:
            detail = self._details()[name]
            self.progress.update(self._tasks[name], total=1, completed=1, detail=detail)
        elif name == "verifier":
            self._show_phase()

    def _details(self) -> dict[str, str]:
        return {
            "redis": f"private Redis, kept in {self._config.redis_dir}",
            "drafter": self._config.drafter_address,
            "verifier": f"{Path(self._config.model).name} on {self._config.verifier_address}",
            "gateway": f"http://{self._config.gateway_address}",
        }

    def _show_phase(self) -> None:
        address = self._config.verifier_address
        while self._ahead and health(address, service=self._ahead[0]) is not None:
            self._phase = PHASES[self._ahead.pop(0)]
        detail = f"{Path(self._config.model).name}: {self._phase}"
        completed = len(PHASES) - len(self._ahead)
        self.progress.update(self._tasks["verifier"], completed=completed, detail=detail)


@contextmanager
def shown_stack(console: Console, config: StackConfig) -> Iterator[Stack]:
    """Run a stack for the length of a `with` block; SIGTERM ends it as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    start_up = StartUp(console, config)
    stack = Stack(config)
    try:
        with start_up.progress:
            stack.start(start_up.report)
        yield stack
    finally:
        with console.status("Stopping"):
            stack.stop()


def serve(console: Console, config: StackConfig) -> None:
    """Run a stack until Ctrl-C; StackError if one of its processes dies before it is ready."""
    with shown_stack(console, config) as stack:
        with Client(config.verifier_address) as client:
            model = client.model()
        url = f"http://{config.gateway_address}"
        console.print(
            READY.format(
                model=model.model,
                device=model.device,
                address=config.verifier_address,
                gateway=GATEWAY.format(url=url) if config.gateway_address else "",
                directory=config.directory,
            ),
            highlight=False,
        )
        if model.verification_reason:
            console.print(f"[yellow]Drafting is limited: {model.verification_reason}[/]")
        try:
            stack.watch(lambda line: console.print(f"[yellow]{escape(line)}[/]", highlight=False))
        except KeyboardInterrupt:
            console.print("[dim]interrupted[/]")
