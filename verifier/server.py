"""One verifier process from start to end: bind, load, warm up, serve, drain, stop."""

import asyncio
import logging
import os
import time
from collections.abc import Callable

from protos.verifier_pb2_grpc import add_VerifierServiceServicer_to_server
from rpc.contract import StartupPart
from rpc.metrics import LoopCollector, exporting, new_registry
from rpc.server import RpcServer
from rpc.tracing import Tracer
from verifier.api.service import NAME, Backend, VerifierService
from verifier.config import VerifierConfig
from verifier.engine.engine import Engine
from verifier.loading import load_engine
from verifier.model.parallel import Group, RankZeroModel
from verifier.request import Mode, Request, Speculation
from verifier.sampling.params import SamplingParams
from verifier.telemetry.metrics import VerifierMetrics
from verifier.text.stopping import StoppingParams

logger = logging.getLogger(__name__)

# Beyond those that run and wait: calls that are refused with a reason, and short ones.
SPARE_RPCS = 64
POLL_S = 0.02
GRACE_S = 2.0  # for the last messages of streams that ended
WATCH_S = 1.0
STUCK = 70  # the exit status


async def serve(
    config: VerifierConfig, tracer: Tracer | None = None, group: Group | None = None
) -> None:
    """Serve until SIGTERM or SIGINT; a call that comes before the model is told to retry."""
    server = RpcServer(
        [NAME],
        max_concurrent_rpcs=config.max_sequences + config.max_waiting + SPARE_RPCS,
    )
    service = VerifierService()
    add_VerifierServiceServicer_to_server(service, server.grpc)
    await server.start(config.listen, config.tls())
    registry = new_registry("verifier")
    async with exporting(config.metrics_listen, registry):
        try:
            engine, tokenizer = await load_engine(config, group or Group(), _announcing(server))
        except BaseException:
            await server.stop()
            raise
        engine.on_death = server.fail
        engine.start()
        await warm_up(engine)
        engine.counters.reset()
        service.backend = Backend(engine, tokenizer, config, tracer)
        metrics = VerifierMetrics(engine, server.calls)
        registry.register(LoopCollector(metrics.collect))
        logger.info("model_ready %s", _summary(service.backend))
        await server.mark_serving()
        watching = asyncio.create_task(watch(engine, server, config.watchdog_s), name="watchdog")
        try:
            await server.run_until_signalled(
                drain=lambda: drain(engine, config.drain_s), grace_s=GRACE_S
            )
        finally:
            watching.cancel()
        if isinstance(engine.model, RankZeroModel):
            engine.model.stop()


def _announcing(server: RpcServer) -> Callable[[StartupPart], object]:
    """Return what the loading thread calls with each part that is there."""
    loop = asyncio.get_running_loop()
    return lambda part: asyncio.run_coroutine_threadsafe(
        server.set_health(part, serving=True), loop
    )


async def warm_up(engine: Engine) -> None:
    """Generate a few tokens, so that the first request finds everything in place."""
    request = Request(
        request_id="warm-up",
        prompt_token_ids=(1, 2, 3, 4),
        sampling=SamplingParams(),
        stopping=StoppingParams(max_tokens=4),
        speculation=Speculation(mode=Mode.OFF),
    )
    async for _ in engine.submit(request).stream():
        pass


async def drain(engine: Engine, limit_s: float) -> None:
    """Let what runs and waits come to its end; at the limit end it with what it has."""
    try:
        async with asyncio.timeout(limit_s):
            while engine.num_running or engine.num_waiting:
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        logger.warning("drain_limit running=%d", engine.num_running)
    await engine.stop()


async def watch(
    engine: Engine, server: RpcServer, limit_s: float, end: Callable[[int], object] = os._exit
) -> None:
    """End the process when a pass does not end: its thread cannot be waited for, nor stopped."""
    while True:
        await asyncio.sleep(min(WATCH_S, limit_s))
        began = engine.pass_began
        if began and time.perf_counter() - began > limit_s:
            logger.critical("engine_stuck pass_s=%.0f limit_s=%.0f", limit_s, limit_s)
            await server.stop()
            end(STUCK)


def _summary(backend: Backend) -> str:
    model = backend.describe()
    bitwise = "true" if model.bitwise else f"false reason={model.not_bitwise_reason!r}"
    return (
        f"model={model.model} architecture={model.architecture} device={model.device!r} "
        f"vocabulary_size={model.vocabulary_size} max_context={model.max_context_len} "
        f"bitwise={bitwise} attention={model.attention} launch={model.launch!r}"
    )
