"""The table of docs/clients.md: what each client did when it was last tried."""

import re
from dataclasses import dataclass
from pathlib import Path

from bench.marked_place import fill, read
from tests.clients.table import CLIENTS, Client
from tests.support import ROOT

PAGE = ROOT / "docs" / "clients.md"
PLACE = "clients"
HEADER = "| client | package | what passes |\n|---|---|---|"
# A program names its checks in the same way in Python and in JavaScript.
CHECK = re.compile(r'^@?check\(\s*"([^"]+)"', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Row:
    """A client's line."""

    client: str
    package: str
    passed: tuple[str, ...]

    def __str__(self) -> str:
        return f"| {self.client} | {self.package} | {'; '.join(self.passed)} |"


def row_of(client: Client, passed: tuple[str, ...]) -> Row:
    """The line of a client that passed these checks."""
    return Row(client.name, f"`{client.package}` {client.version}", passed)


def checks_of(client: Client) -> tuple[str, ...]:
    """The names of its program's checks, read from the program's text."""
    return tuple(CHECK.findall(client.program_path.read_text()))


def read_rows(page: Path = PAGE) -> list[Row]:
    """What the page says."""
    lines = read(page, PLACE).splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [Row(name, package, tuple(passed.split("; "))) for name, package, passed in cells]


def write_rows(rows: list[Row], page: Path = PAGE) -> None:
    """Put these in place of the rows of the same clients, in the order of the table."""
    kept = {row.client: row for row in [*read_rows(page), *rows]}
    listed = [str(kept[client.name]) for client in CLIENTS if client.name in kept]
    fill(page, PLACE, "\n".join([HEADER, *listed]))
