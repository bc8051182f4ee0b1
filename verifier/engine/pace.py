"""How long those who wait will wait, from how long those before them held their slots."""

from collections import deque

MEMORY = 32  # requests that ended last
DEFAULT_S = 1.0  # while nothing is known
MAX_S = 600.0


class Pace:
    """The time that a request takes."""

    def __init__(self, num_slots: int) -> None:
        self._num_slots = num_slots
        self._held_s: deque[float] = deque(maxlen=MEMORY)

    def ended(self, held_s: float) -> None:
        """Note how long a request held its slot."""
        self._held_s.append(held_s)

    def wait_s(self, num_waiting: int, running_s: list[float]) -> float:
        """Return when a newcomer's turn would come behind so many.

        `running_s`: how long those that run hold their slots already, which tells of a change.
        """
        known = list(self._held_s) or running_s
        if not known:
            return DEFAULT_S
        usual_s = max(sum(known) / len(known), sum(running_s) / max(len(running_s), 1))
        return min(max(usual_s * (num_waiting + 1) / self._num_slots, DEFAULT_S), MAX_S)
