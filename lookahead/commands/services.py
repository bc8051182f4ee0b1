"""Commands that run something: the whole local stack, or one service of it."""

import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Annotated

import typer
from rich.console import Console

from lookahead.commands.settings_options import (
    DrafterCommand,
    GatewayCommand,
    StackCommand,
    VerifierCommand,
)
from lookahead.stack.demo_models import DEMO
from lookahead.stack.model_cache import cache_directory, resolve_model
from lookahead.stack.serve import serve as run_stack
from lookahead.stack.stack import NO_REDIS, StackConfig, StackError
from lookahead.terminal import options

services = typer.Typer()

# What each extra brings that nothing else does.
EXTRAS = {"drafter": "numba", "verifier": "torch", "gateway": "starlette"}


@services.command(cls=StackCommand)
def serve(
    context: typer.Context,
    model: options.Model = DEMO,
    redis: options.Redis = "",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the verifier.")] = 50051,
    drafter_port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port of the drafter.")
    ] = 50052,
    http_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the OpenAI-compatible gateway; 0: none.")
    ] = 8000,
    metrics_port: Annotated[
        int,
        typer.Option(
            min=0,
            max=65534,
            help="Metrics port of the verifier; the drafter has the next one; 0: none.",
        ),
    ] = 9101,
    host: Annotated[str, typer.Option(help="Interface to listen on.")] = "127.0.0.1",
) -> None:
    """Run the whole stack on this machine: Redis, drafter, verifier and gateway."""
    console = Console()
    require_extras("drafter", "verifier", "gateway")
    cache = cache_directory()
    config = StackConfig(
        model=resolve_model(model, console),
        directory=cache / "logs" / f"serve-{port}",
        redis_dir=cache / "redis",
        verifier_address=f"{host}:{port}",
        drafter_address=f"{host}:{drafter_port}",
        gateway_address=f"{host}:{http_port}" if http_port else "",
        verifier_metrics=f"{host}:{metrics_port}" if metrics_port else "",
        drafter_metrics=f"{host}:{metrics_port + 1}" if metrics_port else "",
        redis=redis,
        embeds=redis != NO_REDIS,
        environ=os.environ | context.obj,
    )
    run_stack(console, config)


@services.command(cls=DrafterCommand)
def drafter(context: typer.Context) -> None:
    """Run one drafter."""
    require_extras("drafter")
    _become("drafter", context.obj)


@services.command(cls=VerifierCommand)
def verifier(context: typer.Context, model: options.Model = DEMO) -> None:
    """Run one verifier."""
    require_extras("verifier")
    path = resolve_model(model, Console(stderr=True))
    _become("verifier", {**context.obj, "LOOKAHEAD_VERIFIER_MODEL": path})


@services.command(cls=GatewayCommand)
def gateway(context: typer.Context) -> None:
    """Run one OpenAI-compatible gateway."""
    require_extras("gateway")
    _become("lookahead.gateway", context.obj)


def require_extras(*names: str) -> None:
    """Refuse to start services whose dependencies are not installed."""
    missing = [name for name in names if find_spec(EXTRAS[name]) is None]
    if missing:
        extras = ",".join(missing)
        raise StackError(f"not installed: run pip install 'lookahead-serving[{extras}]'")


def _become(module: str, settings: Mapping[str, str]) -> None:
    """Replace this process by the service: its signals, its output and its exit status."""
    os.execve(sys.executable, [sys.executable, "-m", module], {**os.environ, **settings})
