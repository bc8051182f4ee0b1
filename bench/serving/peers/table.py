"""The table of all systems: speeds by task, for the terminal and as Markdown."""

from dataclasses import dataclass

from rich.table import Table

from bench.plots import Bars
from bench.serving.figures import Figure
from bench.serving.peers.ratios import ratios
from bench.serving.peers.report import Report
from bench.serving.peers.samples import Row, Sample, token_ms, tokens_per_s, tokens_per_step
from bench.serving.peers.tasks import DECODED


@dataclass(frozen=True, slots=True)
class Grid:
    """Cells as text, with what stands above them."""

    title: str
    header: list[str]
    rows: list[list[str]]

    def terminal(self) -> Table:
        """For rich."""
        table = Table(*self.header, title=self.title, title_justify="left")
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """As a Markdown table under its title."""
        line = ["---", *["---:"] * (len(self.header) - 1)]
        lines = [_line(cells) for cells in (self.header, line, *self.rows)]
        return "\n".join([f"**{self.title}**", "", *lines])


def speeds(report: Report, dtype: str) -> Grid:
    """Medians over the rounds: a line for each way of decoding and state of its memory."""
    tasks = report.tasks()
    header = ["system", *(_header(task) for task in tasks), "words as plain"]
    rows = [
        [row.name, *(cell(report, dtype, task, row) for task in tasks), words(report, dtype, row)]
        for row in report.rows(dtype)
    ]
    return Grid(f"{report.model}, {dtype}", header, rows)


def skips(report: Report) -> Grid:
    """Who is missing, and why."""
    rows = [[each.name, each.dtype, each.reason] for each in report.skipped]
    return Grid("Left out", ["system", "type", "reason"], rows)


def verdicts(report: Report) -> Grid:
    """All ratios, with their bars."""
    rows = [
        [figure.section, figure.name, f"{figure.value:.2f}", _bar(figure), _verdict(figure)]
        for figure in ratios(report)
    ]
    return Grid("Ratios", ["type", "ratio", "measured", "bar", "met"], rows)


def grids(report: Report) -> list[Grid]:
    """Everything there is to show."""
    found = [speeds(report, dtype) for dtype in report.dtypes()]
    if report.skipped:
        found.append(skips(report))
    return [*found, verdicts(report)]


def bars(report: Report) -> list[Bars]:
    """The decoding tasks of each type, to be drawn."""
    tasks = [task for task in report.tasks() if task in DECODED]
    return [
        Bars(
            f"{report.model}, {dtype}",
            tasks,
            {
                row.name: [report.median(dtype, task, row, token_ms) for task in tasks]
                for row in report.rows(dtype)
            },
        )
        for dtype in report.dtypes()
    ]


def cell(report: Report, dtype: str, task: str, row: Row) -> str:
    """Milliseconds a token, with tokens per step where more than one; or tokens a second."""
    if task not in DECODED:
        speed = report.median(dtype, task, row, tokens_per_s)
        return "" if speed is None else f"{speed:.0f}"
    slowness = report.median(dtype, task, row, token_ms)
    if slowness is None:
        return ""
    per_step = report.median(dtype, task, row, tokens_per_step)
    is_drafted = row.method != "plain" and per_step is not None
    return f"{slowness:.1f} ({per_step:.1f})" if is_drafted else f"{slowness:.1f}"


def words(report: Report, dtype: str, row: Row) -> str:
    """How many answers read as the same system's plain ones of the same round."""
    if row.method == "plain":
        return ""
    pairs = [
        pair
        for task in report.tasks()
        for pair in _paired(
            report.by_round(dtype, task, row),
            report.by_round(dtype, task, Row(row.system, "plain")),
        )
    ]
    return f"{sum(a == b for a, b in pairs)}/{len(pairs)}" if pairs else ""


def _paired(ours: dict[int, Sample], plain: dict[int, Sample]) -> list[tuple[str, str]]:
    rounds = ours.keys() & plain.keys()
    return [
        pair
        for number in rounds
        for pair in zip(ours[number].texts, plain[number].texts, strict=True)
    ]


def _line(cells: list[str]) -> str:
    """A line of a Markdown table; what a peer's error says may hold anything."""
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _header(task: str) -> str:
    return f"{task}, {'ms/token' if task in DECODED else 'tokens/s'}"


def _bar(figure: Figure) -> str:
    if figure.at_least is not None:
        return f"≥ {figure.at_least:g}"
    return "" if figure.at_most is None else f"≤ {figure.at_most:g}"


def _verdict(figure: Figure) -> str:
    return {True: "yes", False: "no", None: ""}[figure.passes]
