"""One drafter process from start to end: build the parts, warm up, serve, stop."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from drafter.api.service import NAME, DrafterService
from drafter.config import DrafterConfig
from drafter.drafting.session_store import SessionStore
from drafter.drafting.sessions import DraftSessions
from drafter.kernels.dispatch import dispatch
from drafter.memory.memory import MemoryLimits, SharedMemory
from drafter.memory.room import RoomLimits
from drafter.metrics import DrafterMetrics
from drafter.trie.token_run import TokenRun
from protos.drafter_pb2_grpc import add_DrafterServiceServicer_to_server
from rpc.metrics import LoopCollector, exporting, new_registry
from rpc.server import RpcServer
from rpc.tracing import Tracer

logger = logging.getLogger(__name__)

# In the health service: SERVING while what is learned here reaches other drafters and outlives
# this process. Drafting goes on without.
SHARED_MEMORY = "shared-memory"
_REPORT_S = 1.0
_COMPILE_S = 60.0


async def serve(config: DrafterConfig, tracer: Tracer | None = None) -> None:
    """Serve until SIGTERM or SIGINT; SystemExit where the settings do not work here."""
    dispatch.compile_in_background()
    try:
        sessions, memory = build(config)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"drafter: {error}") from error
    server = RpcServer([NAME])
    service = DrafterService(
        sessions, memory, max_live_tokens=config.max_live_tokens, tracer=tracer
    )
    add_DrafterServiceServicer_to_server(service, server.grpc)
    try:
        await server.start(config.listen, config.tls())
    except OSError as error:
        raise SystemExit(f"drafter: {error}") from error
    await memory.start()
    reporting = asyncio.create_task(_report_health(server, memory), name="health")
    registry = new_registry("drafter")
    metrics = DrafterMetrics(sessions, memory, service.lookup_s, server.calls)
    registry.register(LoopCollector(metrics.collect))
    try:
        async with exporting(config.metrics_listen, registry):
            await server.mark_serving()
            await server.run_until_signalled(grace_s=config.grace_s)
    except OSError as error:
        raise SystemExit(f"drafter: {error}") from error
    finally:
        reporting.cancel()
        with suppress(asyncio.CancelledError):
            await reporting
        await memory.stop()
        # A process must not end under its compiler's feet; what was learned is in Redis by now.
        await asyncio.to_thread(dispatch.is_compiled, _COMPILE_S)


def build(
    config: DrafterConfig,
    call: Callable[..., object] = lambda function, *a: function(*a),
) -> tuple[DraftSessions, SharedMemory]:
    """Make the sessions, and the memory that they learn into and draft from.

    `call`: how to call the memory from a thread that closes sequences.
    """

    def finished(space: str, run: TokenRun) -> None:
        call(memory.append, space, run)

    sessions = DraftSessions(finished, max_namespace_bytes=config.max_namespace_bytes)
    memory = SharedMemory(
        SessionStore(sessions, max_namespace_bytes=config.max_namespace_bytes),
        redis_url=config.redis_url.get_secret_value() or None,
        limits=MemoryLimits(
            room=_room(config),
            tenant_learn_tokens=config.max_tenant_learn_tokens,
            max_outbox_bytes=config.max_outbox_bytes,
            ttl_s=config.namespace_ttl_s,
        ),
        lock=sessions.lock,
    )
    return sessions, memory


def _room(config: DrafterConfig) -> RoomLimits:
    """Return what may be in memory; a tenant may have half of it unless told otherwise."""
    return RoomLimits(
        max_bytes=config.max_memory_bytes,
        max_spaces=config.max_namespaces,
        max_tenant_bytes=config.max_tenant_bytes or config.max_memory_bytes // 2,
        max_tenant_spaces=config.max_tenant_namespaces or max(1, config.max_namespaces // 2),
    )


def warm_up() -> None:
    """Compile every kernel, or load it from its cache."""
    dispatch.compile()


async def _report_health(server: RpcServer, memory: SharedMemory) -> None:
    """Say in the health service whether the shared memory is there."""
    while True:
        await server.set_health(SHARED_MEMORY, serving=memory.reaches_others)
        await asyncio.sleep(_REPORT_S)
