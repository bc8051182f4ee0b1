"""Commands that run something: the whole local stack, or one service of it."""

import os
import sys
from importlib.util import find_spec
from typing import Annotated

import typer
from rich.console import Console

from lookahead.commands import verifier_options
from lookahead.stack.model_cache import DEMO, cache_directory, resolve_model
from lookahead.stack.serve import serve as run_stack
from lookahead.stack.stack import StackConfig, StackError
from lookahead.terminal import options

services = typer.Typer()

Listen = Annotated[str | None, typer.Option(help="Address to serve on, host:port or unix:path.")]
# What each extra brings that nothing else does.
EXTRAS = {"drafter": "numba", "verifier": "torch", "gateway": "starlette"}


@services.command()
def serve(
    model: options.Model = DEMO,
    redis: options.Redis = "",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the verifier.")] = 50051,
    drafter_port: Annotated[int, typer.Option(min=1, max=65535, help="And the drafter.")] = 50052,
    http_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Of the OpenAI-compatible gateway; 0: none.")
    ] = 8000,
    metrics_port: Annotated[
        int, typer.Option(min=0, max=65534, help="The verifier's; the drafter's is next; 0: none.")
    ] = 9101,
    host: Annotated[str, typer.Option(help="Interface to listen on.")] = "127.0.0.1",
    device: verifier_options.Device = None,
    dtype: verifier_options.Dtype = None,
    attention: verifier_options.Attention = None,
    compile: verifier_options.Compile = None,
    exactness: verifier_options.Exactness = None,
    threads: verifier_options.Threads = None,
    max_sequences: verifier_options.MaxSequences = None,
    max_context: verifier_options.MaxContext = None,
    max_nodes: verifier_options.MaxNodes = None,
    kv_memory: verifier_options.KVMemory = None,
    prefill_rows: verifier_options.PrefillRows = None,
) -> None:
    """Run the whole stack on this machine: Redis, drafter, verifier and gateway."""
    chosen = verifier_options.chosen(locals())
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
        environ=os.environ | chosen,
    )
    run_stack(console, config)


@services.command()
def drafter(
    listen: Listen = None,
    redis: Annotated[str | None, typer.Option(help="Redis URL of the shared memory.")] = None,
) -> None:
    """Run one drafter. More settings: environment variables LOOKAHEAD_DRAFTER_*."""
    require_extras("drafter")
    _become("drafter", LOOKAHEAD_DRAFTER_LISTEN=listen, LOOKAHEAD_DRAFTER_REDIS_URL=redis)


@services.command()
def verifier(
    model: options.Model = DEMO,
    listen: Listen = None,
    drafter: Annotated[
        str | None, typer.Option(help="Addresses of drafters, comma-separated.")
    ] = None,
    device: verifier_options.Device = None,
    dtype: verifier_options.Dtype = None,
    attention: verifier_options.Attention = None,
    compile: verifier_options.Compile = None,
    exactness: verifier_options.Exactness = None,
    threads: verifier_options.Threads = None,
    max_sequences: verifier_options.MaxSequences = None,
    max_context: verifier_options.MaxContext = None,
    max_nodes: verifier_options.MaxNodes = None,
    kv_memory: verifier_options.KVMemory = None,
    prefill_rows: verifier_options.PrefillRows = None,
) -> None:
    """Run one verifier. More settings: environment variables LOOKAHEAD_VERIFIER_*."""
    chosen = verifier_options.chosen(locals())
    require_extras("verifier")
    _become(
        "verifier",
        LOOKAHEAD_VERIFIER_MODEL=resolve_model(model, Console(stderr=True)),
        LOOKAHEAD_VERIFIER_LISTEN=listen,
        LOOKAHEAD_VERIFIER_DRAFTER=drafter,
        **chosen,
    )


@services.command()
def gateway(
    listen: Annotated[str | None, typer.Option(help="Address to serve on, host:port.")] = None,
    verifier: Annotated[
        str | None, typer.Option(help="Addresses of verifiers, comma-separated.")
    ] = None,
) -> None:
    """Run one OpenAI-compatible gateway. More settings: variables LOOKAHEAD_GATEWAY_*."""
    require_extras("gateway")
    _become(
        "lookahead.gateway",
        LOOKAHEAD_GATEWAY_LISTEN=listen,
        LOOKAHEAD_GATEWAY_VERIFIER=verifier,
    )


def require_extras(*names: str) -> None:
    """Refuse to start services whose dependencies are not installed."""
    missing = [name for name in names if find_spec(EXTRAS[name]) is None]
    if missing:
        extras = ",".join(missing)
        raise StackError(f"not installed: run pip install 'lookahead-serving[{extras}]'")


def _become(module: str, **settings: str | None) -> None:
    """Replace this process by the service: its signals, its output and its exit status."""
    given = {name: value for name, value in settings.items() if value is not None}
    os.execve(sys.executable, [sys.executable, "-m", module], {**os.environ, **given})
