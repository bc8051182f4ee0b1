"""How many calls of each kind run at once; a limit of gRPC would count idle health watches, too."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from rpc.errors import ResourceExhausted

HEALTH_PREFIX = "/grpc.health.v1.Health/"
CHECK, WATCH = f"{HEALTH_PREFIX}Check", f"{HEALTH_PREFIX}Watch"
REFLECTION_PREFIX = "/grpc.reflection."
# A watch costs some kilobytes and lasts as long as its client likes.
MAX_WATCHES = 1024
MAX_REFLECTIONS = 64


class CallLimits:
    """Counts running calls."""

    def __init__(self, max_calls: int | None) -> None:
        """`max_calls`: of the service's own methods; None: as many as come."""
        self._limits = {WATCH: MAX_WATCHES, REFLECTION_PREFIX: MAX_REFLECTIONS}
        if max_calls is not None:
            self._limits[""] = max_calls
        self._running: Counter[str] = Counter()

    @contextmanager
    def counted(self, method: str) -> Iterator[None]:
        """Count a call in this block, or raise ResourceExhausted. A health check always may."""
        kind = _kind(method)
        limit = self._limits.get(kind)
        if limit is not None and self._running[kind] >= limit:
            raise ResourceExhausted(f"{limit} calls of this kind are running already")
        self._running[kind] += 1
        try:
            yield
        finally:
            self._running[kind] -= 1


def _kind(method: str) -> str:
    if method in (CHECK, WATCH):
        return method
    return REFLECTION_PREFIX if method.startswith(REFLECTION_PREFIX) else ""
