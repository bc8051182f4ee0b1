"""How generations look in a terminal: drafted tokens in colour, then what it took in one line."""

import re
from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from lookahead.results import GenerationResult, TokenRun

DRAFTED_STYLE = "green"
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
    console.out(printable(run.drafted_text), style=DRAFTED_STYLE, highlight=False, end="")
    console.out(printable(run.own_text), highlight=False, end="")


def legend() -> Text:
    """Say what the colours mean."""
    return Text.assemble(
        (DRAFTED_STYLE, DRAFTED_STYLE),
        (": drafted, and accepted by the model; uncoloured: the model's own.", "dim"),
    )


def summary(result: GenerationResult) -> str:
    """Say in one line what a generation took."""
    parts = [
        f"{result.usage.num_output_tokens} tokens",
        f"{result.tokens_per_second:.1f} tokens/s",
        f"{result.tokens_per_step:.2f} tokens/step",
        f"first token after {result.timings.queue_ms + result.timings.prefill_ms:.0f} ms",
        f"ended by {result.finish_reason}",
    ]
    if result.speculation.num_draft_tokens:
        accepted, drafted = (
            result.speculation.num_accepted_tokens,
            result.speculation.num_draft_tokens,
        )
        parts.insert(3, f"{accepted} of {drafted} drafted tokens accepted")
    return " · ".join(parts)


def printable(text: str) -> str:
    """Replace control characters by the replacement character."""
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
