"""`lookahead trie`: look at what the drafters remember, teach it, save it, forget it."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from lookahead import options
from lookahead.cli_services import require_extras
from lookahead.cli_tls import tls
from lookahead.client import DEFAULT_ADDRESS, Client
from lookahead.corpus import read_pieces
from lookahead.drafter_client import DEFAULT_DRAFTER, DrafterClient, NamespaceInfo
from lookahead.errors import LookaheadError
from lookahead.model_cache import cache_directory

trie = typer.Typer(
    name="trie", help="What the drafters remember.", no_args_is_help=True, add_completion=False
)

Drafters = Annotated[
    list[str] | None,
    typer.Option("--drafter", envvar="LOOKAHEAD_DRAFTER", help="Drafter to ask; may be repeated."),
]
Prefix = Annotated[str, typer.Option(help="Only namespaces whose name begins with this.")]
Name = Annotated[str, typer.Option("--namespace", "-n", help="Namespace of the memory.")]
Vocabulary = Annotated[
    str, typer.Option(help="Vocabulary fingerprint; empty: that of the verifier's model.")
]
RedisUrl = Annotated[
    str, typer.Option("--redis", help="Redis URL; empty: the private one of `lookahead serve`.")
]


@trie.command()
def stats(drafter: Drafters = None, prefix: Prefix = "", as_json: options.AsJson = False) -> None:
    """List the namespaces in memory, per drafter."""
    found = _ask_all(drafter, prefix)
    if as_json:
        rows = {name: [asdict(info) for info in infos] for name, infos in found.items()}
        typer.echo(json.dumps(rows, indent=2))
        return
    Console().print(_table(found))


@trie.command()
def top(
    drafter: Drafters = None,
    prefix: Prefix = "",
    interval_s: Annotated[float, typer.Option("--interval", min=0.1, help="Seconds.")] = 1.0,
) -> None:
    """Watch the namespaces grow, until Ctrl-C."""
    before: dict[tuple[str, str, str], int] = {}
    with Live(Table(), console=Console(), auto_refresh=False) as live:
        while True:
            found = _ask_all(drafter, prefix)
            live.update(_table(found, before, interval_s), refresh=True)
            before = {
                (name, info.vocabulary, info.namespace): info.num_tokens
                for name, infos in found.items()
                for info in infos
            }
            time.sleep(interval_s)


@trie.command()
def digest(drafter: Drafters = None, prefix: Prefix = "") -> None:
    """Compare drafters: at one position in the log all must have one digest, or the exit is 1."""
    seen: dict[tuple[str, str, str], set[str]] = {}
    for name, infos in _ask_all(drafter, prefix).items():
        for info in infos:
            position = info.log_position or f"no log, {name}"
            typer.echo(f"{info.digest}  {info.namespace}  {position}  {name}")
            key = info.vocabulary, info.namespace, position
            seen.setdefault(key, set()).add(info.digest)
    if any(len(digests) > 1 for digests in seen.values()):
        typer.echo("drafters differ at the same position", err=True)
        raise typer.Exit(1)


@trie.command()
def learn(
    files: Annotated[
        list[Path], typer.Argument(exists=True, dir_okay=False, help="Text, or JSONL.")
    ],
    namespace: Name = "default",
    address: options.Address = DEFAULT_ADDRESS,
    drafter: Drafters = None,
) -> None:
    """Teach texts. JSONL lines are {"text": …} or {"token_ids": […]}."""
    with Client(address, tls=tls()) as client, DrafterClient(_one(drafter), tls=tls()) as target:
        vocabulary = client.model().vocabulary_fingerprint
        try:
            with _progress() as progress:
                runs = _tokenised(client, files, progress)
                num_tokens = target.learn(vocabulary, namespace, runs)
        except ValueError as error:
            raise LookaheadError(str(error)) from error
    typer.echo(f"learned {num_tokens:,} tokens into {namespace}")


@trie.command()
def forget(
    namespace: Annotated[str, typer.Argument(help="Namespace to forget.")],
    vocabulary: Vocabulary = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    address: options.Address = DEFAULT_ADDRESS,
    drafter: Drafters = None,
) -> None:
    """Forget a namespace: on all drafters, in the log, in the snapshots."""
    fingerprint = vocabulary or _fingerprint(address)
    if not yes:
        typer.confirm(f"Forget all of {namespace}, everywhere?", abort=True)
    with DrafterClient(_one(drafter), tls=tls()) as target:
        num_tokens = target.forget(fingerprint, namespace)
    typer.echo(f"forgot {namespace}: {num_tokens:,} tokens here")


@trie.command("export")
def export_file(
    path: Annotated[Path, typer.Argument(dir_okay=False, help="File to write.")],
    namespace: Name = "default",
    vocabulary: Vocabulary = "",
    redis: RedisUrl = "",
    address: options.Address = DEFAULT_ADDRESS,
) -> None:
    """Write a namespace's memory, as Redis has it now, to a file."""
    require_extras("drafter")
    from lookahead.trie_file import export_space  # needs the drafter's packages

    url = redis or f"unix://{cache_directory()}/redis/redis.sock"
    try:
        done = export_space(url, vocabulary or _fingerprint(address), namespace, path)
    except (ConnectionError, ValueError) as error:
        raise LookaheadError(f"cannot export {namespace}: {error}") from error
    typer.echo(f"wrote {done.num_tokens:,} tokens at {done.position}, digest {done.digest}")


@trie.command("import")
def import_file(
    path: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="File to read.")],
    namespace: Name = "default",
    vocabulary: Vocabulary = "",
    address: options.Address = DEFAULT_ADDRESS,
    drafter: Drafters = None,
) -> None:
    """Teach what an export holds, on top of what is remembered."""
    require_extras("drafter")
    from lookahead.trie_file import read_runs  # needs the drafter's packages

    fingerprint = vocabulary or _fingerprint(address)
    try:
        runs = read_runs(path, fingerprint)
    except ValueError as error:
        raise LookaheadError(f"{path}: {error}") from error
    with DrafterClient(_one(drafter), tls=tls()) as target:
        num_tokens = target.learn(fingerprint, namespace, (run.tolist() for run in runs))
    typer.echo(f"learned {num_tokens:,} tokens into {namespace}")


def _ask_all(drafters: list[str] | None, prefix: str) -> dict[str, list[NamespaceInfo]]:
    found = {}
    for address in drafters or [DEFAULT_DRAFTER]:
        with DrafterClient(address, tls=tls()) as client:
            found[address] = client.namespaces(prefix)
    return found


def _one(drafters: list[str] | None) -> str:
    """One drafter is enough to teach: the others learn from the log."""
    return (drafters or [DEFAULT_DRAFTER])[0]


def _fingerprint(address: str) -> str:
    with Client(address, tls=tls()) as client:
        return client.model().vocabulary_fingerprint


def _tokenised(
    client: Client, files: Sequence[Path], progress: Progress
) -> Iterator[Sequence[int]]:
    """Yield token runs, moving the bar by the bytes that were read."""
    task = progress.add_task("", total=sum(path.stat().st_size for path in files), tokens=0)
    num_tokens = 0
    for path in files:
        for piece in read_pieces(path):
            run = piece.token_ids or client.tokenize(piece.text, special_tokens=False)
            num_tokens += len(run)
            progress.update(task, advance=piece.num_bytes, tokens=num_tokens)
            if run:
                yield run


def _progress() -> Progress:
    return Progress(
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[tokens]:,} tokens"),
        TimeElapsedColumn(),
        TextColumn("[dim]left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def _table(
    found: dict[str, list[NamespaceInfo]],
    before: dict[tuple[str, str, str], int] | None = None,
    interval_s: float = 1.0,
) -> Table:
    """Draw one row per drafter and namespace; with `before`, tokens learned per second too."""
    table = Table(box=None, pad_edge=False)
    for heading in ("drafter", "namespace"):
        table.add_column(heading)
    for heading in ("tokens", "tokens/s", "MiB") if before is not None else ("tokens", "MiB"):
        table.add_column(heading, justify="right")
    table.add_column("behind", justify="right")
    table.add_column("digest")
    table.add_column("position")
    for name, infos in found.items():
        for info in infos:
            known = (before or {}).get((name, info.vocabulary, info.namespace), info.num_tokens)
            speed = [f"{(info.num_tokens - known) / interval_s:,.0f}"] if before is not None else []
            table.add_row(
                name,
                info.namespace,
                f"{info.num_tokens:,}",
                *speed,
                f"{info.num_bytes / (1 << 20):,.1f}",
                _behind(info),
                info.digest[:12],
                info.log_position or "-",
            )
    return table


def _behind(info: NamespaceInfo) -> str:
    """Say how far a drafter is behind the log: entries and seconds; nothing while it is not."""
    if not info.log_position:
        return "no log"
    if info.lag_s == 0.0 and info.lag_entries == 0:
        return "-"
    return f"{info.lag_entries:,} in {info.lag_s:,.1f} s"
