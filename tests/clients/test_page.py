"""docs/clients.md lists exactly the clients that are tried, and what their programs check."""

from pathlib import Path

from tests.clients.page import Row, checks_of, read_rows, row_of, write_rows
from tests.clients.table import CLIENTS, PROGRAMS


def test_page_lists_each_client_and_all_that_its_program_checks() -> None:
    assert read_rows() == [row_of(client, checks_of(client)) for client in CLIENTS]


def test_each_program_belongs_to_a_client_and_checks_something() -> None:
    programs = {path.name for path in PROGRAMS.iterdir() if path.is_file()} - {"checks.py"}
    assert programs == {client.program for client in CLIENTS}
    assert all(checks_of(client) for client in CLIENTS)


def test_a_run_replaces_the_rows_of_the_clients_that_it_tried(tmp_path: Path) -> None:
    page = tmp_path / "clients.md"
    page.write_text("Before.\n\n<!-- clients -->\n| |\n|---|\n<!-- end of clients -->\n\nAfter.\n")
    first, second = (row_of(client, ("all", "some")) for client in CLIENTS[:2])
    write_rows([second], page)
    write_rows([first], page)
    write_rows([Row(second.client, second.package, ("all",))], page)
    assert read_rows(page) == [first, Row(second.client, second.package, ("all",))]
    assert page.read_text().startswith("Before.\n") and page.read_text().endswith("After.\n")
