"""Shows generations in a terminal: text coloured by source, then one line of figures."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from lookahead.client.results import GenerationResult, Source, TokenRun, ToolCall

STYLES: dict[Source | None, str] = {
    "local": "bright_blue",
    "namespace": "green",
    "successors": "yellow",
    "constraint": "cyan",
    "unknown": "magenta",
    None: "",
}
# A model may write anything; a terminal must not obey it.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def print_prompt(console: Console, prompt: str) -> None:
    """Print the end of a prompt, dimmed; the answer goes on behind it."""
    console.out(printable(prompt), style="dim", highlight=False, end="")


def print_runs(console: Console, runs: Iterable[TokenRun]) -> None:
    """Print runs as they come: drafted text in colour, the model's own as it is."""
    for run in runs:
        print_run(console, run)
    console.out("")


def print_run(console: Console, run: TokenRun) -> None:
    """Print one run; without a terminal exactly its text."""
    if not console.is_terminal:
        console.file.write(run.text)
        console.file.flush()
        return
    for piece in split(run):
        console.out(printable(piece.text), style=STYLES[piece.source], highlight=False, end="")


def print_calls(console: Console, calls: Iterable[ToolCall]) -> None:
    """Print each call of a tool on a line of its own."""
    for call in calls:
        console.print(f"[bold]→[/] {escape(printable(called(call)))}", highlight=False)


def called(call: ToolCall) -> str:
    """Return a call as code reads; arguments that were cut off as they are."""
    try:
        arguments = json.loads(call.arguments)
    except ValueError:
        return f"{call.name}({call.arguments}…"
    written = (f"{name}={json.dumps(v, ensure_ascii=False)}" for name, v in arguments.items())
    return f"{call.name}({', '.join(written)})"


def signature(tool: Mapping[str, Any]) -> str:
    """Return the name of a tool in OpenAI's form and of what it takes."""
    function = tool.get("function", tool)
    properties = function.get("parameters", {}).get("properties", {})
    return f"{function.get('name', '')}({', '.join(properties)})"


def legend(*, is_constrained: bool = False) -> Text:
    """Print the meaning of the colours."""
    constraint = [(" · ", "dim"), ("from the constraint", STYLES["constraint"])]
    return Text.assemble(
        ("drafted and accepted: ", "dim"),
        ("from the prompt", STYLES["local"]),
        (" · ", "dim"),
        ("from memory", STYLES["namespace"]),
        (" · ", "dim"),
        ("from successors", STYLES["successors"]),
        *(constraint if is_constrained else ()),
        (" · uncoloured: the model's own", "dim"),
    )


def shows_colours(console: Console) -> bool:
    """Whether a legend has something to explain; no colours in a pipe or with NO_COLOR."""
    return console.is_terminal and not console.no_color


def summary(result: GenerationResult) -> str:
    """Return one line with the figures of a generation."""
    parts = [
        f"{result.usage.num_output_tokens} tokens",
        f"{result.tokens_per_second:.1f} tokens/s",
        f"{result.tokens_per_step:.2f} tokens per step",
        f"first token after {result.timings.queue_ms + result.timings.prefill_ms:.0f} ms",
        f"ended by {result.finish_reason}",
    ]
    if result.speculation.num_draft_tokens:
        accepted, drafted = (
            result.speculation.num_accepted_tokens,
            result.speculation.num_draft_tokens,
        )
        parts.insert(3, f"{accepted} of {drafted} drafted tokens accepted")
    if result.timings.gain:
        parts.insert(3, f"{result.timings.gain:.2f}x plain decoding")
    return " · ".join(parts)


def printable(text: str) -> str:
    """Replace control characters by the replacement character."""
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


@dataclass(frozen=True, slots=True)
class Piece:
    """Text of one source; None: the model's own."""

    text: str
    source: Source | None


def split(run: TokenRun) -> list[Piece]:
    """Return the parts of a run in order; together they are its text.

    Which characters a token brought is told by the run's draft tree. Without one, all drafted
    text goes to the first token's source.
    """
    groups = groupby(_labelled(run), key=lambda piece: piece.source)
    joined = [Piece("".join(p.text for p in group), source) for source, group in groups]
    return [piece for piece in joined if piece.text]


def _labelled(run: TokenRun) -> Iterator[Piece]:
    rest = run.drafted_text
    tree = run.draft_tree
    texts = [tree.texts[node] for node in tree.accepted] if tree is not None else []
    sources = run.sources[: run.num_drafted] or ("unknown",)
    for source, text in zip(sources[:-1], texts, strict=False):
        yield Piece(rest[: len(text)], source)
        rest = rest[len(text) :]
    # What a token lacks of a character, or a stop string holds back, comes with a later one.
    yield Piece(rest, sources[-1] if texts else sources[0])
    yield Piece(run.own_text, None)
