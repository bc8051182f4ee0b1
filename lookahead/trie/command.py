"""`lookahead trie`: show what the drafters remember; teach, export or forget it."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lookahead.client.client import DEFAULT_ADDRESS, Client
from lookahead.client.drafter_client import DEFAULT_DRAFTER, DrafterClient, NamespaceInfo
from lookahead.client.errors import LookaheadError
from lookahead.commands.services import require_extras
from lookahead.stack.model_cache import cache_directory
from lookahead.terminal import options
from lookahead.terminal.tls import tls
from lookahead.trie.learning import learning_progress, report_learned, tokenised
from lookahead.trie.table import NOTHING, draw_table

trie = typer.Typer(
    name="trie", help="What the drafters remember.", no_args_is_help=True, add_completion=False
)

Drafters = Annotated[
    list[str] | None,
    typer.Option("--drafter", envvar="LOOKAHEAD_DRAFTER", help="Drafter to ask; may be repeated."),
]
Prefix = Annotated[str, typer.Option(help="Show only namespaces whose name begins with this.")]
Name = Annotated[str, typer.Option("--namespace", "-n", help="Namespace of the memory.")]
Vocabulary = Annotated[
    str, typer.Option(help="Fingerprint of the vocabulary; empty: that of the verifier's model.")
]
RedisUrl = Annotated[
    str, typer.Option("--redis", help="Redis URL; empty: the private one of `lookahead serve`.")
]


@trie.command(name="list")
def list_command(
    drafter: Drafters = None,
    prefix: Prefix = "",
    as_json: options.AsJson = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on until Ctrl-C, and show what is learned.")
    ] = False,
    interval_s: Annotated[
        float, typer.Option("--interval", min=0.1, help="Seconds between two looks of --watch.")
    ] = 1.0,
) -> None:
    """List the namespaces in memory, per drafter."""
    if watch and as_json:
        raise typer.BadParameter("give --watch or --json, not both")
    if watch:
        _watch(drafter, prefix, interval_s)
    found = _ask_all(drafter, prefix)
    if as_json:
        rows = {name: [asdict(info) for info in infos] for name, infos in found.items()}
        typer.echo(json.dumps(rows, indent=2))
        return
    Console().print(draw_table(found) if any(found.values()) else NOTHING)


def _watch(drafter: Drafters, prefix: str, interval_s: float) -> NoReturn:
    before: dict[tuple[str, str, str], int] = {}
    with Live(Table(), console=Console(), auto_refresh=False) as live:
        while True:
            try:
                found = _ask_all(drafter, prefix)
            except LookaheadError as error:
                if not before:
                    raise
                # One that restarts will be back.
                live.update(Text(str(error)), refresh=True)
                time.sleep(interval_s)
                continue
            live.update(draw_table(found, before, interval_s), refresh=True)
            before = {
                (name, info.vocabulary, info.namespace): info.num_tokens
                for name, infos in found.items()
                for info in infos
            }
            time.sleep(interval_s)


@trie.command()
def digest(drafter: Drafters = None, prefix: Prefix = "") -> None:
    """Compare drafters: at the same log position all must have the same digest, else exit 1."""
    seen: dict[tuple[str, str, str], set[str]] = {}
    for name, infos in _ask_all(drafter, prefix).items():
        for info in infos:
            position = info.log_position or f"no log, {name}"
            typer.echo(f"{info.digest}  {info.namespace}  {position}  {name}")
            key = info.vocabulary, info.namespace, position
            seen.setdefault(key, set()).add(info.digest)
    if not seen:
        typer.echo(NOTHING, err=True)
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
        model = client.model()
        try:
            with learning_progress() as progress:
                runs = tokenised(client, files, model, progress)
                num_tokens = target.learn(model.vocabulary_fingerprint, namespace, runs)
        except KeyboardInterrupt:
            typer.echo(
                "Stopped. The text already sent is learned; see `lookahead trie list`.", err=True
            )
            raise
        except ValueError as error:
            raise LookaheadError(f"{error}\nThe text before it is learned.") from error
        report_learned(target, model.vocabulary_fingerprint, namespace, num_tokens)


@trie.command()
def forget(
    namespace: Annotated[str, typer.Argument(help="Namespace to forget.")],
    vocabulary: Vocabulary = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    address: options.Address = DEFAULT_ADDRESS,
    drafter: Drafters = None,
) -> None:
    """Forget a namespace on all drafters, in the log and in the snapshots."""
    fingerprint = vocabulary or _fingerprint(address)
    if not yes:
        typer.confirm(f"Forget all of {namespace}, everywhere?", abort=True)
    with DrafterClient(_one(drafter), tls=tls()) as target:
        num_tokens = target.forget(fingerprint, namespace)
    typer.echo(f"forgot {namespace}: {num_tokens:,} tokens on this drafter")


@trie.command("export")
def export_file(
    path: Annotated[Path, typer.Argument(dir_okay=False, help="File to write.")],
    namespace: Name = "default",
    vocabulary: Vocabulary = "",
    redis: RedisUrl = "",
    address: options.Address = DEFAULT_ADDRESS,
) -> None:
    """Write a namespace's memory, as Redis holds it now, to a file."""
    require_extras("drafter")
    from lookahead.trie.file import export_space  # needs the drafter's packages

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
    """Add an exported memory to what is remembered."""
    require_extras("drafter")
    from lookahead.trie.file import read_runs  # needs the drafter's packages

    fingerprint = vocabulary or _fingerprint(address)
    try:
        runs = read_runs(path, fingerprint)
    except ValueError as error:
        raise LookaheadError(f"{path}: {error}") from error
    with DrafterClient(_one(drafter), tls=tls()) as target:
        num_tokens = target.learn(fingerprint, namespace, (run.tolist() for run in runs))
        report_learned(target, fingerprint, namespace, num_tokens)


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
