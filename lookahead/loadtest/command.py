"""`lookahead loadtest`: asks a running server under load and prints what came of it."""

import json
import sys
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from lookahead.client.client import DEFAULT_ADDRESS, Client
from lookahead.loadtest import options as loadtest_options
from lookahead.loadtest.figures import Row, require_matplotlib, rows
from lookahead.loadtest.figures import plot as write_plot
from lookahead.loadtest.load import Plan, modes_of, run
from lookahead.loadtest.openai_target import OpenAITarget
from lookahead.loadtest.prompts import Prompt, Workload, built_in, read_prompts
from lookahead.loadtest.table import definitions, table
from lookahead.loadtest.target import GrpcTarget, Sampling, Target
from lookahead.terminal import options
from lookahead.terminal.tls import tls

loadtest = typer.Typer()


@loadtest.command(name="loadtest")
def loadtest_command(
    files: loadtest_options.Files = None,
    address: options.Address = DEFAULT_ADDRESS,
    url: loadtest_options.Url = "",
    api_key: loadtest_options.ApiKey = "",
    model: loadtest_options.Model = "",
    workload: loadtest_options.OwnPrompts = "mixed",
    chat: loadtest_options.Chat = False,
    max_tokens: loadtest_options.MaxTokens = 128,
    temperature: loadtest_options.Temperature = 0.0,
    seed: loadtest_options.Seed = 1,
    concurrency: loadtest_options.Concurrency = "1,4",
    requests: loadtest_options.Requests = None,
    rounds: loadtest_options.Rounds = 3,
    speculation: loadtest_options.Speculation = "auto",
    warm: loadtest_options.Warm = True,
    as_json: options.AsJson = False,
    plot: loadtest_options.Plot = None,
) -> None:
    """Measure a running server: speeds with and without drafts, side by side, and equal texts."""
    if plot is not None:
        require_matplotlib()
    prompts, concurrencies = _prompts(files or [], workload), concurrencies_of(concurrency)
    sampling = Sampling(max_tokens, temperature)
    with ExitStack() as exits:
        target: Target
        if url:
            target = _openai_target(url, sampling, api_key=api_key, model=model)
        else:
            client = Client(address, tls=tls(), key=api_key or None)
            target = GrpcTarget(exits.enter_context(client), sampling)
        plan = Plan(
            [prompt.as_chat() for prompt in prompts] if chat else prompts,
            concurrencies,
            modes_of(target, speculation=speculation, is_warm=warm),
            rounds=rounds,
            num_requests=requests,
            seed=seed,
        )
        found = _measure(target, plan)
    _show(found, target.name, plan, as_json=as_json)
    if plot is not None:
        write_plot(found, target.name, plot)
    raise typer.Exit(exit_status(found))


def _prompts(files: list[Path], workload: Workload) -> list[Prompt]:
    try:
        prompts = read_prompts(files) if files else built_in(workload)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if not prompts:
        raise typer.BadParameter(f"no prompts in {', '.join(map(str, files))}")
    return prompts


def _openai_target(url: str, sampling: Sampling, *, api_key: str, model: str) -> OpenAITarget:
    try:
        return OpenAITarget(url, sampling, api_key=api_key, model=model)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def concurrencies_of(text: str) -> list[int]:
    """Parse numbers with commas between them."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = [0]
    if min(numbers) < 1:
        raise typer.BadParameter(f"--concurrency: want numbers from 1 on, as in 1,4,8; got {text}")
    return numbers


def exit_status(found: list[Row]) -> int:
    """1 if a text differs or a request failed."""
    return int(any(row.num_identical < row.num_compared or row.num_errors for row in found))


def _measure(target: Target, plan: Plan) -> list[Row]:
    notes = Console(stderr=True)
    with notes.status("starting") as status:
        return rows(list(run(target, plan, status.update)))


def _show(found: list[Row], name: str, plan: Plan, *, as_json: bool) -> None:
    if as_json:
        document: dict[str, Any] = {
            "target": name,
            "num_prompts": len(plan.prompts),
            "rounds": plan.rounds,
            "seed": plan.seed,
            "rows": [asdict(row) for row in found],
        }
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
        return
    console = Console()
    console.print(f"[bold]{name}[/]: prompts: {len(plan.prompts)}, rounds: {plan.rounds}")
    console.print(table(found))
    console.print(definitions(found), style="dim", highlight=False)
    for error in dict.fromkeys(row.first_error for row in found if row.first_error):
        console.print(f"error: {error}", style="red", markup=False, highlight=False)
