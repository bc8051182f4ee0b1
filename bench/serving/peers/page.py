"""The marked places of a page that hold a report's tables; one command fills them."""

from pathlib import Path

from bench.serving.peers.report import Report
from bench.serving.peers.table import grids


class NoPlace(RuntimeError):
    """The page has no place for the tables of that model."""


def fill(page: Path, report: Report) -> None:
    """Put the tables between the marks of the report's model, in place of what stands there."""
    begin, end = f"<!-- peers: {report.model} -->", f"<!-- end of peers: {report.model} -->"
    before, found, rest = page.read_text().partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found and found_end):
        raise NoPlace(f"{page}: no lines {begin} and {end}")
    page.write_text(f"{before}{begin}\n{tables(report)}\n{end}{after}")


def tables(report: Report) -> str:
    """What stands there, as Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    intro = (
        f"{report.machine}; {report.rounds} rounds, {report.tokens} tokens an answer; {versions}."
    )
    return "\n\n".join([intro, *(grid.markdown() for grid in grids(report))])
