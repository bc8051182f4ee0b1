"""Pages: the cache's room in pieces of PAGE positions, which sequences hold, share and leave.

Several sequences may hold a page. One that nobody holds is free, or is kept because somebody may
begin with what it holds; the one kept and not used for longest is given out when none is free.
"""

from collections import OrderedDict
from collections.abc import Callable

PAGE = 64  # positions


class Pages:
    """Who holds how much. Knows numbers of pages, not what is in them."""

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        # Told of a page that was kept and is given out.
        self.on_evict: Callable[[int], None] = lambda page: None
        self._free = list(range(num_pages))[::-1]
        self._num_holders = [0] * num_pages
        self._known: set[int] = set()  # pages that are worth keeping
        self._kept: OrderedDict[int, None] = OrderedDict()  # known and held by nobody, oldest first

    @property
    def num_available(self) -> int:
        """Pages that nobody holds."""
        return len(self._free) + len(self._kept)

    @property
    def num_held(self) -> int:
        """Pages that sequences hold, each counted once."""
        return self.num_pages - self.num_available

    def take(self) -> int:
        """Hold a page that nobody holds."""
        assert self.num_available, "take without a page"
        if self._free:
            page = self._free.pop()
        else:
            page, _ = self._kept.popitem(last=False)
            self._known.discard(page)
            self.on_evict(page)
        self._num_holders[page] = 1
        return page

    def hold(self, page: int) -> None:
        """Hold a page that others hold or that is kept."""
        self._kept.pop(page, None)
        self._num_holders[page] += 1

    def release(self, page: int) -> None:
        """Let go of a page."""
        assert self._num_holders[page], f"page {page} is held by nobody"
        self._num_holders[page] -= 1
        if self._num_holders[page]:
            return
        if page in self._known:
            self._kept[page] = None
        else:
            self._free.append(page)

    def know(self, page: int) -> None:
        """Keep a page, now held, when nobody holds it any more."""
        self._known.add(page)

    def is_known(self, page: int) -> bool:
        """Whether the page will be kept."""
        return page in self._known

    def is_held(self, page: int) -> bool:
        """Whether a sequence holds the page."""
        return self._num_holders[page] > 0

    def forget(self) -> None:
        """Keep nothing any more."""
        self._free += self._kept
        self._kept.clear()
        self._known.clear()

    def touch(self, page: int) -> None:
        """Note that a kept page was of use."""
        if page in self._kept:
            self._kept.move_to_end(page)


def num_pages_of(num_rows: int) -> int:
    """Pages that so many rows take."""
    return -(-num_rows // PAGE)
