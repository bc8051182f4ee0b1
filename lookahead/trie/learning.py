"""Teaches files to a drafter, and reports the result."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from lookahead.client.client import Client
from lookahead.client.drafter_client import DrafterClient
from lookahead.client.results import ModelInfo
from lookahead.trie.corpus import MAX_PIECE_CHARS, read_pieces

# A server takes texts of 32 bytes for each token of its context, and no character has more than 4.
MIN_CHARS_PER_TOKEN = 8
# What was learned is usually there in milliseconds.
_PATIENCE_S = 2.0


def report_learned(
    drafter: DrafterClient, vocabulary: str, namespace: str, num_tokens: int
) -> None:
    """Say what was learned, and whether the drafter holds less than that."""
    typer.echo(f"learned {num_tokens:,} tokens into {namespace}")
    deadline = time.monotonic() + _PATIENCE_S
    while (held := _held(drafter, vocabulary, namespace)) < num_tokens:
        if time.monotonic() > deadline:
            typer.echo(
                f"{drafter.address} holds {held:,} tokens of {namespace} now. Either the rest is "
                "still in the log, or the namespace has reached "
                "LOOKAHEAD_DRAFTER_MAX_NAMESPACE_BYTES and its oldest tokens were dropped.",
                err=True,
            )
            return
        time.sleep(0.1)


def _held(drafter: DrafterClient, vocabulary: str, namespace: str) -> int:
    wanted = vocabulary, namespace
    found = [i for i in drafter.namespaces(namespace) if (i.vocabulary, i.namespace) == wanted]
    return found[0].num_tokens if found else 0


def tokenised(
    client: Client, files: Sequence[Path], model: ModelInfo, progress: Progress
) -> Iterator[Sequence[int]]:
    """Yield token runs, moving the bar by the bytes that were read."""
    max_chars = min(MAX_PIECE_CHARS, MIN_CHARS_PER_TOKEN * model.max_context_len)
    task = progress.add_task("", total=sum(path.stat().st_size for path in files), tokens=0)
    num_tokens = 0
    for path in files:
        for piece in read_pieces(path, max_chars):
            run = piece.token_ids or client.tokenize(piece.text, special_tokens=False)
            if max(run, default=0) >= model.vocabulary_size:
                # A draft with such a token would be refused as a whole.
                raise ValueError(
                    f"{path}: token id {max(run)} is not below {model.vocabulary_size}, the size "
                    "of the vocabulary"
                )
            num_tokens += len(run)
            progress.update(task, advance=piece.num_bytes, tokens=num_tokens)
            if run:
                yield run


def learning_progress() -> Progress:
    return Progress(
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[tokens]:,} tokens"),
        TimeElapsedColumn(),
        TextColumn("[dim]left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
