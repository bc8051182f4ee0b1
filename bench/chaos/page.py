"""The figures as a table of a page."""

from bench.serving.figures import Figure

PLACE = "chaos"  # in the page


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
