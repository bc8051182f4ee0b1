"""A report's tables, as a page holds them in the place of the report's model."""

from bench.serving.peers.report import Report
from bench.serving.peers.table import grids


def place(report: Report) -> str:
    """The name of the place."""
    return f"peers: {report.model}"


def tables(report: Report) -> str:
    """What stands there, as Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    intro = (
        f"{report.machine}; {report.rounds} rounds, {report.tokens} tokens an answer; {versions}."
    )
    return "\n\n".join([intro, *(grid.markdown() for grid in grids(report))])
