"""How a running stack looks in a terminal of 80 columns."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from lookahead.terminal.display import STYLES
from lookahead.top.figures import Figures

MIB = 1 << 20
Cells = list[tuple[str, str | Text]]


@dataclass(frozen=True, slots=True)
class Part:
    """One process: its figures, or why there are none."""

    address: str
    service: str
    figures: Figures
    error: str = ""


def page(parts: list[Part]) -> Group:
    """The whole page for a terminal."""
    blocks: list[Any] = []
    for part in parts:
        heading = Text(f"{part.service or '?':<10}", style="bold")
        heading.append(part.address, style="dim")
        if part.error:
            blocks.append(heading.append(f"  {part.error}", style="red"))
        else:
            blocks += [heading, _block(part.service, part.figures)]
    return Group(*blocks)


def _block(service: str, f: Figures) -> Table:
    """The figures of one process in pairs of columns."""
    table = Table.grid(padding=(0, 2, 0, 1))
    cells = BLOCKS[service](f)
    for start in range(0, len(cells), 3):
        row: list[Text] = []
        for label, text in cells[start : start + 3]:
            row += [Text(f"  {label}", style="dim"), text if isinstance(text, Text) else Text(text)]
        table.add_row(*row)
    return table


def _verifier_cells(f: Figures) -> Cells:
    return [
        ("streams", f"{f['running']} + {f['waiting']} waiting"),
        ("tokens/s", f"{f['tokens_per_s']:,.1f}"),
        ("prompt/s", f"{f['prompt_tokens_per_s']:,.0f}"),
        ("drafting", _state(f["drafting"])),
        ("gain", f"{f['gain']:.2f}x plain"),
        ("per step", _number(f["tokens_per_step"], "{:.2f} tokens")),
        ("accepted", _number(f["acceptance"], "{:.0%} of drafted")),
        ("from", _sources(f["accepted_by_source"])),
        ("step", _number(f["step_ms"], "{:.1f} ms")),
        ("KV cache", f"{f['kv_usage']:.0%}"),
        ("missed drafts/s", f"{f['missed_drafts_per_s']:.1f}"),
    ]


def _drafter_cells(f: Figures) -> Cells:
    cells: Cells = [
        ("sequences", str(f["sequences"])),
        ("memory", f"{f['trie_tokens']:,} tokens, {f['trie_bytes'] / MIB:,.1f} MiB"),
        ("namespaces", str(f["namespaces"])),
        ("a draft", _number(f["lookup_us"], "{:.0f} µs")),
        ("learning", f"{f['learned_tokens_per_s']:,.0f} tokens/s"),
    ]
    if not f["shared"]:
        return [*cells, ("Redis", Text("none: memory ends with the process", style="yellow"))]
    redis = Text("up", style="green") if f["redis_up"] else Text("DOWN", style="bold red")
    return [
        *cells,
        ("Redis", redis),
        ("behind", f"{f['lag_entries']:,} entries, {f['lag_s']:.1f} s"),
        ("outbox", f"{f['outbox_entries']:,} runs"),
        ("dropped", f"{f['outbox_dropped']:,}"),
    ]


def _gateway_cells(f: Figures) -> Cells:
    return [
        ("requests", f"{f['running']} running"),
        ("answers/s", f"{f['requests_per_s']:.1f}"),
        ("verifiers", f"{f['verifiers_up']} of {f['verifiers']} up"),
    ]


BLOCKS: Mapping[str, Callable[[Figures], Cells]] = {
    "verifier": _verifier_cells,
    "drafter": _drafter_cells,
    "gateway": _gateway_cells,
}
SOURCE_NAMES = {
    "local": "prompt",
    "namespace": "memory",
    "successors": "successors",
    "constraint": "constraint",
}
STATES = {
    "on": Text("on", style="green"),
    "backed_off": Text("off: it lost time", style="yellow"),
    "no_drafter": Text("off: no drafter", style="red"),
}


def _state(state: str) -> Text:
    return STATES.get(state, Text(state))


def _sources(counts: Mapping[str, float]) -> Text:
    whole = sum(counts.values())
    shares = [
        Text(f"{SOURCE_NAMES[source]} {counts[source] / whole:.0%}", style=STYLES[source])  # type: ignore[index]
        for source in SOURCE_NAMES
        if whole and counts.get(source)
    ]
    return Text(" ").join(shares) if shares else Text("-")


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
