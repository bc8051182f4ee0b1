"""How the shared memory is doing, for health details, metrics and tables: plain numbers, no I/O."""

from dataclasses import dataclass

from drafter.log.protocol import Page


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
    trouble: str = ""  # why it cannot be followed
    other_limit: int | None = None  # bytes per trie at the newest's writer, if not as here


@dataclass(frozen=True, slots=True)
class MemoryStatus:
    """All spaces together, and each of them."""

    shared: bool  # False: no Redis is configured, what is learned dies with the process
    connected: bool
    spaces: tuple[SpaceStatus, ...]
    num_bytes: int
    num_tokens: int
    outbox_runs: int
    outbox_bytes: int
    outbox_dropped: int
    oldest_waiting_s: float  # of the runs that no log has acknowledged
    applied_tokens: int
    duplicates: int
    holes: int
    skipped: int
    snapshots: int
    unloaded: int  # spaces, to make room
    refused_tokens: int  # not learned, for their tenant had learned too much of late
    resyncs: dict[str, int]  # by reason
    repairs: dict[str, int]  # of spaces that Redis held unusable, by what was wrong

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
    def num_in_trouble(self) -> int:
        return sum(bool(space.trouble) for space in self.spaces)

    @property
    def lag_s(self) -> float:
        """Of the slowest space."""
        return max((space.lag_s for space in self.spaces), default=0.0)

    @property
    def snapshot_age_s(self) -> float | None:
        """Of the space whose newest snapshot is the oldest."""
        ages = [space.snapshot_age_s for space in self.spaces]
        return max((age for age in ages if age is not None), default=None)


# While nothing happens a reader hears from the log at least this often.
_QUIET_S = 2.0


class Lag:
    """Counts entries by the log's own number of all that were ever added to it."""

    def __init__(self, now_s: float) -> None:
        self.entries = 0
        self.caught_up_at: float | None = None
        self._started_at = now_s
        # How many had been added up to the cursor's entry; None until the end was seen once.
        self._rank: int | None = None

    def saw(self, page: Page, num_fresh: int, now_s: float) -> None:
        """Note a page, of which so many entries lie behind the cursor."""
        last_id = page.entries[-1][0] if page.entries else page.end.last_id
        if last_id == page.end.last_id:
            self._rank = page.end.num_added - num_fresh
            self.entries = num_fresh
        elif self._rank is None:
            # Started from a snapshot: some of those in the log may lie before the cursor.
            self.entries = max(num_fresh, page.end.num_held)
        else:
            self.entries = max(num_fresh, page.end.num_added - self._rank)
        if num_fresh == 0:
            self.entries, self.caught_up_at = 0, now_s

    def applied(self) -> None:
        """Note that the cursor moved on by one entry."""
        self.entries = max(0, self.entries - 1)
        if self._rank is not None:
            self._rank += 1

    def restart(self) -> None:
        """Forget what was known of the log; it is another one."""
        self.entries, self._rank = 0, None

    def seconds(self, now_s: float, heard_at: float | None = None) -> float:
        """Return for how long this replica is behind, or may be; 0 while it waits at the end.

        `heard_at` is when there was last known to be nothing new.
        """
        since_s = self._started_at if self.caught_up_at is None else self.caught_up_at
        at_end = self.caught_up_at is not None and self.entries == 0
        if at_end and heard_at is not None:
            since_s = max(since_s, heard_at)
        return 0.0 if at_end and now_s - since_s < _QUIET_S else now_s - since_s
