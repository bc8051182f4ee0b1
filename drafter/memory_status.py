"""How the shared memory is doing, for health details, metrics and tables: plain numbers, no I/O."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SpaceStatus:
    """One space as this replica holds it."""

    space: str
    num_tokens: int
    num_bytes: int
    position: str = ""  # where in which history; equal positions have equal digests
    synced: bool = True
    ahead: bool = False  # drafting from runs that the log does not have yet
    lag_entries: int = 0  # known to stand in the log, not applied yet
    lag_s: float = 0.0  # for how long this replica is behind, or may be
    snapshot_age_s: float | None = None  # how far the newest lies behind, in the log's time
    other_limit: int | None = None  # bytes per trie at the newest's writer, if not as here


@dataclass(frozen=True, slots=True)
class MemoryStatus:
    """All spaces together, and each of them."""

    shared: bool  # False: no Redis is configured, what is learned dies with the process
    connected: bool
    last_error: str
    spaces: tuple[SpaceStatus, ...]
    num_bytes: int
    num_tokens: int
    outbox_runs: int
    outbox_bytes: int
    outbox_dropped: int
    oldest_waiting_s: float  # of the runs that no log has acknowledged
    applied_entries: int
    applied_tokens: int
    duplicates: int
    holes: int
    skipped: int
    snapshots: int
    snapshots_refused: int
    unloaded: int  # spaces, to make room
    resyncs: dict[str, int]  # by reason

    @property
    def num_spaces(self) -> int:
        return len(self.spaces)

    @property
    def lag_entries(self) -> int:
        return sum(space.lag_entries for space in self.spaces)

    @property
    def num_other_limits(self) -> int:
        """Spaces that a replica with another limit holds, too: they evict at other tokens."""
        return sum(space.other_limit is not None for space in self.spaces)

    @property
    def lag_s(self) -> float:
        """Of the slowest space."""
        return max((space.lag_s for space in self.spaces), default=0.0)

    @property
    def snapshot_age_s(self) -> float | None:
        """Of the space whose newest snapshot is the oldest."""
        ages = [space.snapshot_age_s for space in self.spaces]
        return max((age for age in ages if age is not None), default=None)
