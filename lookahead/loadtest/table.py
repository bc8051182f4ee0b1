"""A load test's figures as a table, with what each of them means."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from lookahead.loadtest.figures import Row, Spread

HEADINGS = (
    "at\nonce",
    "\ndrafts",
    "\ntokens/s",
    "over\nplain",
    "tokens\nper step",
    "first token ms\np50 / p99",
    "per token ms\np50 / p99",
    "end to end ms\np50 / p99",
    "identical\ntexts",
    "\nerrors",
)
NOTHING = "-"
MODES = {
    "as served": "as served: as the server decides",
    "plain": "plain: drafting off",
    "cold": "cold: drafting on, memory empty; drafts come from the request's own text",
    "warm": "warm: drafting on, the memory has seen these prompts answered before",
}
DEFINITIONS = """\
tokens/s: output tokens of all requests over the burst's whole time, first tokens included; \
median of the rounds
over plain: tokens/s divided by that of plain in the same round; median of the rounds
tokens per step: tokens after the first / decode steps; mean over requests
first token: from sending the request to its first text; only in warm the prompts are known
per token: (last text - first text) / (tokens - 1) of a request, so per token, not per message
identical texts: answers equal to those of plain, out of those that could be compared"""


def table(rows: Sequence[Row]) -> Table:
    """Return the table; one section for each concurrency."""
    found = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for heading in HEADINGS:
        justify = "left" if heading.endswith("drafts") else "right"
        found.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for i, row in enumerate(rows):
        ends = i + 1 == len(rows) or rows[i + 1].concurrency != row.concurrency
        found.add_row(*_cells(row), end_section=ends)
    return found


def definitions(rows: Sequence[Row]) -> str:
    """Say what the rows and columns mean."""
    return "\n".join([*(MODES[name] for name in dict.fromkeys(r.mode for r in rows)), DEFINITIONS])


def _cells(row: Row) -> list[str]:
    is_same = row.num_identical == row.num_compared
    identical = f"{row.num_identical} of {row.num_compared}" if row.num_compared else NOTHING
    return [
        str(row.concurrency),
        row.mode,
        f"{row.tokens_per_second:.1f}",
        f"{row.gain:.2f}x" if row.gain and row.mode != "plain" else NOTHING,
        f"{row.tokens_per_step:.2f}" if row.tokens_per_step else NOTHING,
        _spread(row.first_token_ms),
        _spread(row.per_token_ms),
        _spread(row.end_to_end_ms),
        identical if is_same else f"[red bold]{identical}[/]",
        f"[red bold]{row.num_errors}[/]" if row.num_errors else "0",
    ]


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return NOTHING
    digits = 1 if spread.p50 < 100 else 0
    return f"{spread.p50:.{digits}f} / {spread.p99:.{digits}f}"
