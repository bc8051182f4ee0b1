"""The KV cache: rows in pages, and for each running sequence, in its slot, a table of its pages.

Rows of a draft tree are written side by side after a slot's committed rows; `commit` moves the
accepted ones together, those of all slots before the next pass. Keys carry their rotary position
already, and a node's position is final, so moving a row needs no recomputation. Committed rows are
never written again, so full pages are shared without copies.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from verifier.cache.pages import PAGE, Pages, num_pages_of
from verifier.cache.placement import Kernel, Placement
from verifier.cache.slot_layers import LayerShape, SlotLayer, SlotLayers


class KVCache:
    """Slots for running sequences, and the pages of their rows."""

    def __init__(
        self,
        shapes: list[LayerShape],
        *,
        num_slots: int,
        capacity: int,
        num_pages: int | None = None,
        dtype: torch.dtype,
        device: torch.device,
        is_packed: bool,
        kernel: Kernel = Kernel.MASKED,
    ) -> None:
        """`capacity`: rows that a sequence may have. `num_pages`: by default, so many for each."""
        self.num_slots = num_slots
        self.kernel = kernel
        self.capacity = capacity
        self.is_packed = is_packed
        self.pages = Pages(num_pages or num_slots * num_pages_of(capacity))
        self.placement = Placement(torch.empty(0))
        # Told of rows that move, for caches elsewhere that hold other heads.
        self.on_move: Callable[[list[int], list[int]], object] = lambda sources, targets: None
        self._device = device
        self._lengths = [0] * num_slots
        self._sources: list[int] = []  # places of rows that move before the next pass
        self._targets: list[int] = []
        self._tables: list[list[int]] = [[] for _ in range(num_slots)]
        self._free = list(range(num_slots))  # least recently used first
        self._storages = _allocate(shapes, PAGE * self.pages.num_pages, dtype, device)
        self.cache = SlotLayers(layers=[SlotLayer(self, k, v) for k, v in self.row_views()])

    @property
    def num_free(self) -> int:
        """Slots that no sequence holds."""
        return len(self._free)

    def allocate(self) -> int:
        """Take a free slot, without pages."""
        assert self._free, "allocate without a free slot"
        slot = self._free.pop(0)
        self._lengths[slot] = 0
        return slot

    def free(self, slot: int) -> None:
        """Give a slot and its pages back."""
        assert slot not in self._free, f"slot {slot} is free already"
        self._release(self._tables[slot])
        self._tables[slot] = []
        self._free.append(slot)

    def table(self, slot: int) -> Sequence[int]:
        """The slot's pages, in the order of its positions."""
        return self._tables[slot]

    def set_tables(self, tables: Mapping[int, Sequence[int]]) -> None:
        """Take over the tables of some slots, where another process keeps count of pages."""
        for slot, table in tables.items():
            self._tables[slot] = list(table)

    def reserve(self, slot: int, num_rows: int) -> bool:
        """Give a slot the pages for so many rows; False, and no page, where too few are left."""
        table = self._tables[slot]
        num_missing = num_pages_of(num_rows) - len(table)
        if num_missing > self.pages.num_available:
            return False
        table += [self._take_page() for _ in range(num_missing)]
        return True

    def share(self, slot: int, pages: Sequence[int], length: int) -> None:
        """Let a slot begin with the first rows of these pages, in place of what it has.

        Full pages are held in common; of the last one the rows are copied.
        """
        before, num_full = self._tables[slot], length // PAGE
        for page in pages:
            self.pages.hold(page)
        self._release(before)
        self._tables[slot] = list(pages[:num_full])
        self._lengths[slot] = PAGE * num_full
        self.reserve(slot, max(length, PAGE * len(before)))
        if length > PAGE * num_full and self._reaches(slot, length):
            self.make_moves()  # what is copied may have moved
            rows = np.arange(PAGE * num_full, length)
            self._sources += places_of(pages, rows).tolist()
            self._targets += places_of(self._tables[slot], rows).tolist()
            self.make_moves()
            self._lengths[slot] = length
        self._release(pages[num_full:])

    def length(self, slot: int) -> int:
        """Committed rows of a slot."""
        return self._lengths[slot]

    def settled(self, slot: int) -> int:
        """How many of them are never written again."""
        return self._lengths[slot]

    def reusable(self, pages: Sequence[int], length: int) -> int:
        """How many of the first `length` rows of these pages a sequence can begin with."""
        return length

    def promised(self, length: int, num_prompt: int) -> int:
        """How many of its first `length` rows a prompt that is being read will leave to others."""
        return length

    def num_pending(self, slot: int) -> int:
        """Committed tokens that the slot's next pass runs again."""
        return 0

    def commit(self, slot: int, rows: list[int]) -> None:
        """Keep these rows of the last forward pass (rising, relative to the committed length)."""
        length = self._lengths[slot]
        self._lengths[slot] = length + len(rows)
        table = self._tables[slot]
        for index, row in enumerate(rows):
            if row != index:
                self._sources.append(_place(table, length + row))
                self._targets.append(_place(table, length + index))

    def make_moves(self) -> None:
        """Move the rows that were committed since the last pass, of all slots at once."""
        if self._sources:
            sources, targets = self._sources, self._targets
            self._sources, self._targets = [], []
            self.on_move(sources, targets)
            self.move_rows(sources, targets)

    def row_views(self) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of each layer: [heads, places, dim]."""
        pairs = zip(self._storages[::2], self._storages[1::2], strict=True)
        return [layer for keys, values in pairs for layer in zip(keys, values, strict=True)]

    def move_rows(self, sources: list[int], targets: list[int]) -> None:
        """Copy rows from places to others."""
        places = torch.tensor([sources, targets])
        source, target = places.to(self._device, non_blocking=True)
        for storage in self._storages:
            # The right-hand side is a gathered copy, so overlapping rows are safe.
            storage[:, :, target] = storage[:, :, source]

    def _take_page(self) -> int:
        return self.pages.take()

    def _release(self, table: Sequence[int]) -> None:
        """Let go of pages; what follows others is given out before them."""
        for page in reversed(table):
            self.pages.release(page)

    def _reaches(self, slot: int, num_rows: int) -> bool:
        return PAGE * len(self._tables[slot]) >= num_rows


def _place(table: Sequence[int], row: int) -> int:
    return table[row // PAGE] * PAGE + row % PAGE


def places_of(table: Sequence[int], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where rows of a sequence lie, by the table of its pages."""
    return np.asarray(table, np.int64)[rows // PAGE] * PAGE + rows % PAGE


def _allocate(
    shapes: list[LayerShape], num_places: int, dtype: torch.dtype, device: torch.device
) -> list[Tensor]:
    """One storage [layers, heads, places, dim] per run of equal layers, keys then values.

    Few large storages make compaction one gather instead of two per layer.
    """
    storages = []
    runs: list[list[LayerShape]] = []
    for shape in shapes:
        if runs and runs[-1][0] == shape:
            runs[-1].append(shape)
        else:
            runs.append([shape])
    for run in runs:
        for dim in (run[0].key_dim, run[0].value_dim):
            size = (len(run), run[0].num_heads, num_places, dim)
            storages.append(_zeros(size, dtype, device))
    return storages


def _zeros(size: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros; on a CPU, memory that is taken only where it is written."""
    if device.type != "cpu":
        return torch.zeros(size, dtype=dtype, device=device)
    num_bytes = math.prod(size) * dtype.itemsize
    return torch.from_numpy(np.zeros(num_bytes, np.uint8)).view(dtype).view(size)
