"""Plain decoding beside lookahead decoding: the same prompt, the same seed, both timed."""

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from statistics import fmean

from rich.box import SIMPLE_HEAD
from rich.table import Table

from lookahead.client.client import Client
from lookahead.client.requests import GenerateParams
from lookahead.client.results import GenerationResult, TokenRun
from lookahead.terminal.samples import Sample

HEADINGS = (
    "plain\ntokens/s",
    "lookahead\ntokens/s",
    "\nspeed-up",
    "tokens\nper step",
    "drafts\naccepted",
    "identical\ntext",
)

Show = Callable[[Iterable[TokenRun]], None]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One prompt generated without drafts and with them."""

    name: str
    plain: GenerationResult
    drafted: GenerationResult

    @property
    def is_identical(self) -> bool:
        """Whether both are the same, token for token."""
        return self.first_difference is None

    @property
    def first_difference(self) -> int | None:
        """Index of the first token that differs; None where nothing does."""
        plain, drafted = self.plain.token_ids, self.drafted.token_ids
        for i, (one, other) in enumerate(zip(plain, drafted, strict=False)):
            if one != other:
                return i
        if len(plain) != len(drafted):
            return min(len(plain), len(drafted))
        same_end = self.plain.finish_reason == self.drafted.finish_reason
        return None if same_end and self.plain.text == self.drafted.text else len(plain)

    @property
    def speedup(self) -> float:
        """How many times faster decoding was."""
        plain = self.plain.tokens_per_second
        return self.drafted.tokens_per_second / plain if plain else 0.0


def plain_params(params: GenerateParams, seed: int) -> GenerateParams:
    """Return the parameters of the run without drafts; it teaches the memory nothing."""
    return {**params, "speculation": "off", "learn": "none", "seed": params.get("seed", seed)}


def fresh_seed() -> int:
    """Return a seed for a request that named none: both runs need the same one."""
    return time.time_ns() % 2**32


def compare(
    client: Client, sample: Sample, params: GenerateParams, show: Show | None = None
) -> Comparison:
    """Generate with drafts, given to `show` as it comes, then without. Teaches nothing."""
    plain = plain_params(params, fresh_seed())
    drafted: GenerateParams = {**plain, "speculation": params.get("speculation", "auto")}
    drafted["draft_trees"] = show is not None  # which show where each word came from
    stream = client.generate(**{**sample.request, **drafted})
    if show is not None:
        show(stream.events())
    return Comparison(
        sample.name,
        drafted=stream.result if show is not None else stream.wait(),
        plain=client.generate(**{**sample.request, **plain}).wait(),
    )


def comparison_table(comparisons: list[Comparison]) -> Table:
    """Return the table of speeds, one row per prompt and their mean."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("\nprompt", no_wrap=True)
    for heading in HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    for comparison in comparisons:
        table.add_row(*_row(comparison))
    if len(comparisons) > 1:
        table.add_section()
        table.add_row(*_mean_row(comparisons), style="bold")
    return table


def as_json(comparison: Comparison) -> dict[str, object]:
    """Return the comparison as plain data."""
    return {
        **asdict(comparison),
        "is_identical": comparison.is_identical,
        "first_difference": comparison.first_difference,
        "speedup": comparison.speedup,
    }


def _row(comparison: Comparison) -> list[str]:
    return [
        comparison.name,
        f"{comparison.plain.tokens_per_second:.1f}",
        f"{comparison.drafted.tokens_per_second:.1f}",
        f"{comparison.speedup:.2f}x",
        f"{comparison.drafted.tokens_per_step:.2f}",
        f"{comparison.drafted.speculation.acceptance:.0%}",
        _yes_or_no(comparison.is_identical),
    ]


def _mean_row(comparisons: list[Comparison]) -> list[str]:
    return [
        "mean",
        f"{fmean(c.plain.tokens_per_second for c in comparisons):.1f}",
        f"{fmean(c.drafted.tokens_per_second for c in comparisons):.1f}",
        f"{fmean(c.speedup for c in comparisons):.2f}x",
        f"{fmean(c.drafted.tokens_per_step for c in comparisons):.2f}",
        f"{fmean(c.drafted.speculation.acceptance for c in comparisons):.0%}",
        _yes_or_no(all(c.is_identical for c in comparisons)),
    ]


def _yes_or_no(value: bool) -> str:
    return "[green]yes[/]" if value else "[red bold]NO[/]"
