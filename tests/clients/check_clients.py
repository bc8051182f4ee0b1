"""Other people's clients, as released, against the running stack on an instruct model.

Installing them takes minutes, so `make test` leaves this out and `make clients-test` runs it. The
run writes the table of docs/clients.md.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.conftest import Served
from tests.clients.environments import ClientUnavailable, install
from tests.clients.page import Row, checks_of, row_of, write_rows
from tests.clients.running import run_program
from tests.clients.table import CLIENTS, Client

pytestmark = [pytest.mark.clients, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def rows() -> Iterator[list[Row]]:
    """What the clients of this run passed; written down at its end."""
    found: list[Row] = []
    yield found
    write_rows(found)


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_client(client: Client, served: Served, rows: list[Row], tmp_path: Path) -> None:
    try:
        install(client)
    except ClientUnavailable as error:
        pytest.skip(f"{client.name} {error}")
    outcome = run_program(client, served.arguments, tmp_path)
    rows.append(row_of(client, outcome.passed))
    assert outcome.status == 0, outcome.output
    assert outcome.passed == checks_of(client)
