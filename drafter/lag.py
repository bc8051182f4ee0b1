"""How far a replica is behind the end of its log, as far as its own reads have seen."""

from drafter.shared_log import Page

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

    def seconds(self, now_s: float) -> float:
        """Return for how long this replica is behind, or may be; 0 while it waits at the end."""
        since_s = now_s - (self._started_at if self.caught_up_at is None else self.caught_up_at)
        waiting = self.caught_up_at is not None and self.entries == 0 and since_s < _QUIET_S
        return 0.0 if waiting else since_s
