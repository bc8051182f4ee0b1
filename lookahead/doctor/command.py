"""`lookahead doctor`: checks a set-up and says how to fix each problem."""

import json
import os
from collections.abc import Iterator
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from lookahead.doctor.addresses import check_address
from lookahead.doctor.finding import Finding, Verdict
from lookahead.doctor.installed import check_packages, check_python
from lookahead.doctor.machine import (
    check_folder,
    check_gpu,
    check_kernels,
    check_load,
    check_threads,
    num_cores,
)
from lookahead.doctor.memory import check_redis
from lookahead.doctor.model import check_model, check_served
from lookahead.doctor.spaces import check_spaces
from lookahead.stack.demo_models import DEMO
from lookahead.stack.model_cache import cache_directory
from lookahead.terminal import options

doctor = typer.Typer()

SIGNS = {
    Verdict.OK: "[green]✓[/]",
    Verdict.WARNING: "[yellow]![/]",
    Verdict.PROBLEM: "[bold red]✗[/]",
}


@doctor.command("doctor")
def examine(
    model: options.Model = DEMO,
    redis: options.Redis = "",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the verifier.")] = 50051,
    drafter_port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port of the drafter.")
    ] = 50052,
    http_port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the gateway.")] = 8000,
    metrics_port: Annotated[
        int, typer.Option(min=0, max=65534, help="First port of the metrics.")
    ] = 9101,
    host: Annotated[str, typer.Option(help="Interface to listen on.")] = "127.0.0.1",
    as_json: options.AsJson = False,
) -> None:
    """Check everything that `lookahead serve` needs. Exit status 1 means a problem."""
    found: list[Finding] = [check_python(), *check_packages()]
    if all(finding.verdict is Verdict.OK for finding in found):
        found += _set_up(model, redis)
    found += _addresses(host, port, drafter_port, http_port, metrics_port)
    found += check_served(f"{host}:{port}")
    if as_json:
        rows = [
            {"about": f.about, "verdict": f.verdict.value, "what": f.what, "do": f.do}
            for f in found
        ]
        typer.echo(json.dumps(rows, indent=2))
    else:
        Console().print(table(found), verdict(found), sep="\n")
    raise typer.Exit(1 if any(f.verdict is Verdict.PROBLEM for f in found) else 0)


def table(found: list[Finding]) -> Table:
    """One line for each finding, and below it how to fix it."""
    result = Table.grid(padding=(0, 1))
    result.add_column()
    result.add_column(style="bold", no_wrap=True)
    result.add_column()
    for finding in found:
        result.add_row(SIGNS[finding.verdict], finding.about, finding.what)
        if finding.do:
            result.add_row("", "", f"[dim]→[/] {finding.do}")
    return result


def verdict(found: list[Finding]) -> str:
    """The summary of all findings."""
    problems = sum(finding.verdict is Verdict.PROBLEM for finding in found)
    if problems:
        noun = "1 problem" if problems == 1 else f"{problems} problems"
        return f"[red bold]{noun} to fix[/] before `lookahead serve` can start."
    return "[green bold]Ready[/] for `lookahead serve`."


def _set_up(model: str, redis: str) -> Iterator[Finding]:
    """Checks that need the packages."""
    cores = num_cores()
    yield check_threads(os.environ, cores)
    yield check_load(os.getloadavg()[0], cores)
    yield check_folder(cache_directory())
    yield check_kernels()
    yield check_gpu(os.environ)
    yield from check_model(model)
    yield from check_redis(redis)
    yield from check_spaces(redis)


def _addresses(
    host: str, port: int, drafter_port: int, http_port: int, metrics_port: int
) -> Iterator[Finding]:
    yield check_address("verifier", f"{host}:{port}", "--port")
    yield check_address("drafter", f"{host}:{drafter_port}", "--drafter-port")
    if http_port:
        yield check_address("gateway", f"{host}:{http_port}", "--http-port")
    if metrics_port:
        yield check_address("verifier metrics", f"{host}:{metrics_port}", "--metrics-port")
        yield check_address("drafter metrics", f"{host}:{metrics_port + 1}", "--metrics-port")
