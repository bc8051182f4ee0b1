"""Figures of a benchmark: a value, the bar it has to pass where there is one, and their table."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number. `at_least` and `at_most` are bars; most figures have none."""

    section: str
    name: str
    value: float
    unit: str = "x"
    at_least: float | None = None
    at_most: float | None = None

    @property
    def passes(self) -> bool | None:
        """Whether it passes its bar; None without one."""
        if self.at_least is not None:
            return self.value >= self.at_least
        if self.at_most is not None:
            return self.value <= self.at_most
        return None


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Median of the ratios of values measured one after the other."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def table(figures: Sequence[Figure]) -> Table:
    """The figures for the terminal."""
    result = Table("section", "figure", "value", "bar", "")
    verdicts = {True: "[green]passes[/]", False: "[red]MISSES[/]", None: ""}
    last = ""
    for figure in figures:
        bar = ""
        if figure.at_least is not None:
            bar = f">= {figure.at_least:g} {figure.unit}"
        elif figure.at_most is not None:
            bar = f"<= {figure.at_most:g} {figure.unit}"
        section = "" if figure.section == last else figure.section
        last = figure.section
        value = f"{figure.value:.2f} {figure.unit}"
        result.add_row(section, figure.name, value, bar, verdicts[figure.passes])
    return result
