"""Writes the figures into the marked place of a page."""

from pathlib import Path

from bench.serving.figures import Figure

BEGIN, END = "<!-- chaos -->", "<!-- end of chaos -->"


class NoPlace(RuntimeError):
    """The page has no place for the table."""


def fill(page: Path, found: dict[str, list[Figure]]) -> None:
    """Put the table between the marks, in place of what stands there."""
    before, has_begin, rest = page.read_text().partition(BEGIN)
    _, has_end, after = rest.partition(END)
    if not (has_begin and has_end):
        raise NoPlace(f"{page}: no lines {BEGIN} and {END}")
    page.write_text(f"{before}{BEGIN}\n{markdown(found)}\n{END}{after}")


def markdown(found: dict[str, list[Figure]]) -> str:
    """A table of all figures; a missed bar says so."""
    lines = ["| fault | figure | value | bar |", "|---|---|---|---|"]
    last = ""
    for figure in (figure for figures in found.values() for figure in figures):
        section = "" if figure.section == last else figure.section
        last = figure.section
        lines.append(f"| {section} | {figure.name} | {_value(figure)} | {_bar(figure)} |")
    return "\n".join(lines)


def _value(figure: Figure) -> str:
    whole = float(figure.value).is_integer()
    number = f"{figure.value:,.0f}" if whole else f"{figure.value:,.2f}"
    return f"{number} {figure.unit}".strip()


def _bar(figure: Figure) -> str:
    if figure.passes is None:
        return ""
    bar = (
        f"at most {figure.at_most:g}"
        if figure.at_least is None
        else f"at least {figure.at_least:g}"
    )
    return bar if figure.passes else f"**missed**: {bar}"
