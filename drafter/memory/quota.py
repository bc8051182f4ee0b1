"""How much each tenant may learn in a minute."""

import time
from collections.abc import Callable

_MINUTE_S = 60.0
_MAX_TENANTS = 10_000


class LearnQuota:
    """Per tenant a bucket of tokens, which fills in a minute."""

    def __init__(
        self, tokens_per_minute: int | None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.refused_tokens = 0
        self._limit, self._now = tokens_per_minute, now
        self._spent: dict[str, tuple[float, float]] = {}  # tokens, when they were counted

    def take(self, tenant: str, num_tokens: int) -> bool:
        """Count tokens, unless they are more than are left; then they count as refused.

        A run longer than a minute's tokens is taken where the bucket is full.
        """
        if self._limit is None:
            return True
        spent = self._spent_by(tenant)
        if spent and spent + num_tokens > self._limit:
            self.refused_tokens += num_tokens
            return False
        self._spent.pop(tenant, None)
        self._spent[tenant] = spent + num_tokens, self._now()
        if len(self._spent) > _MAX_TENANTS:
            del self._spent[next(iter(self._spent))]
        return True

    def _spent_by(self, tenant: str) -> float:
        spent, at = self._spent.get(tenant, (0.0, 0.0))
        return max(0.0, spent - (self._limit or 0) / _MINUTE_S * (self._now() - at))
