"""A marked place of a page, which a command fills: `<!-- name -->` to `<!-- end of name -->`."""

from pathlib import Path


class NoPlace(RuntimeError):
    """The page has no such place."""


def read(page: Path, name: str) -> str:
    """What stands there."""
    return _parts(page, name)[1].strip("\n")


def fill(page: Path, name: str, text: str) -> None:
    """Put the text there, in place of what stood."""
    before, _, after = _parts(page, name)
    begin, end = _marks(name)
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}")


def _parts(page: Path, name: str) -> tuple[str, str, str]:
    begin, end = _marks(name)
    before, has_begin, rest = page.read_text().partition(begin)
    inside, has_end, after = rest.partition(end)
    if not (has_begin and has_end):
        raise NoPlace(f"{page}: no lines {begin} and {end}")
    return before, inside, after


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- {name} -->", f"<!-- end of {name} -->"
