"""`lookahead top`: shows a running stack, from the metrics of its processes."""

import json
import time
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live

from lookahead.terminal import options
from lookahead.terminal.tls import api_key
from lookahead.top.figures import FIGURES
from lookahead.top.page import Part, page
from lookahead.top.scrape import Change, Reading, ScrapeError, scrape

top = typer.Typer()

ADDRESSES = ["127.0.0.1:9101", "127.0.0.1:9102", "127.0.0.1:8000"]  # those of `lookahead serve`


@top.command("top")
def watch(
    addresses: Annotated[
        list[str] | None,
        typer.Argument(help="Metrics addresses of processes, host:port; default: the local stack."),
    ] = None,
    interval_s: Annotated[float, typer.Option("--interval", min=0.1, help="Seconds.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Show one interval and exit.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Watch a running stack: streams, speed, drafting, memory. Ctrl-C ends it."""
    console = Console()
    parts = look(addresses or ADDRESSES, interval_s)
    if as_json or once or not console.is_terminal:
        found = next(parts)
        if as_json:
            typer.echo(json.dumps([_as_json(part) for part in found], indent=2))
        else:
            console.print(page(found))
        raise typer.Exit(1 if all(part.error for part in found) else 0)
    with Live(console=console, auto_refresh=False, screen=True) as live:
        for found in parts:
            live.update(page(found), refresh=True)


def look(addresses: list[str], interval_s: float) -> Iterator[list[Part]]:
    """What every process does, once each interval; rates are those of the interval."""
    before: dict[str, Reading] = dict(_readings(addresses)[0])
    while True:
        time.sleep(interval_s)
        now, errors = _readings(addresses)
        yield [
            Part(address, "", {}, errors[address])
            if address in errors
            else _part(address, Change(before.get(address, now[address]), now[address]))
            for address in addresses
        ]
        before = now


def _readings(addresses: list[str]) -> tuple[dict[str, Reading], dict[str, str]]:
    readings, errors = {}, {}
    for address in addresses:
        try:
            readings[address] = scrape(address, api_key())
        except ScrapeError as error:
            errors[address] = str(error)
    return readings, errors


def _part(address: str, change: Change) -> Part:
    service = change.now.service
    figures = FIGURES.get(service)
    if figures is None:
        return Part(address, service, {}, f"is a {service}, which `lookahead top` cannot show")
    return Part(address, service, figures(change))


def _as_json(part: Part) -> dict[str, Any]:
    if part.error:
        return {"address": part.address, "error": part.error}
    return {"address": part.address, "service": part.service, **part.figures}
