"""Which spaces are put away to make room: the longest unused first, and first of whoever has most.

A tenant is what one API key stands for: the part of a namespace's name before its first dot.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

# Spaces whose runs are still on their way stay up to so many times the limit. Beyond, and beyond
# the bytes, the runs of those longest unused are lost.
_MOST_SPACES_SENDING = 2


@dataclass(frozen=True, slots=True)
class RoomLimits:
    """How much may be in memory, in all and for each tenant."""

    max_bytes: int = 1 << 30
    max_spaces: int = 4096
    max_tenant_bytes: int = 1 << 30
    max_tenant_spaces: int = 4096


@dataclass(frozen=True, slots=True)
class Resident:
    """A space in memory."""

    space: str
    num_bytes: int
    used_at: float
    sending: bool  # its runs are not all in the log yet


def tenant_of(space: str) -> str:
    """Return the tenant of a space."""
    return space.partition("/")[2].partition(".")[0]


def make_room(
    residents: Iterable[Resident], limits: RoomLimits, put_away: Callable[[str], bool]
) -> None:
    """Put spaces away until the rest is within all limits; `put_away` may refuse."""
    held = _Held(limits)
    left = sorted(residents, key=lambda resident: resident.used_at)
    for resident in left:
        held.count(resident, 1)
    for too_much, sending in (
        (held.tenant_has_too_much, False),
        (held.too_much, False),
        (held.far_too_much, True),
    ):
        staying = []
        for resident in left:
            wanted = too_much(resident) and (sending or not resident.sending)
            if wanted and put_away(resident.space):
                held.count(resident, -1)
            else:
                staying.append(resident)
        left = staying


class _Held:
    """What is in memory, in all and for each tenant."""

    def __init__(self, limits: RoomLimits) -> None:
        self._limits = limits
        self._num_bytes = self._num_spaces = 0
        self._tenant_bytes: Counter[str] = Counter()
        self._tenant_spaces: Counter[str] = Counter()

    def count(self, resident: Resident, sign: int) -> None:
        tenant = tenant_of(resident.space)
        self._num_bytes += sign * resident.num_bytes
        self._num_spaces += sign
        self._tenant_bytes[tenant] += sign * resident.num_bytes
        self._tenant_spaces[tenant] += sign

    def tenant_has_too_much(self, resident: Resident) -> bool:
        tenant = tenant_of(resident.space)
        return (
            self._tenant_bytes[tenant] > self._limits.max_tenant_bytes
            or self._tenant_spaces[tenant] > self._limits.max_tenant_spaces
        )

    def too_much(self, resident: Resident) -> bool:
        return self._exceeds(self._limits.max_spaces)

    def far_too_much(self, resident: Resident) -> bool:
        return self._exceeds(_MOST_SPACES_SENDING * self._limits.max_spaces)

    def _exceeds(self, max_spaces: int) -> bool:
        return self._num_bytes > self._limits.max_bytes or self._num_spaces > max_spaces
