"""Where the rows of a pass go and what they read, and the masks that a model is handed."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from verifier.cache.kv_cache import KVCache, places_of
from verifier.cache.placement import Kernel, Placement, SegmentRows
from verifier.model.batch import Batch, Tables, make_masks, make_places, make_table
from verifier.model.masked_attention import make_together


@dataclass(frozen=True, slots=True)
class Masks:
    """Which masks the model's forward takes."""

    by_layer_type: bool  # a dict of masks by layer type, or one mask for all layers
    window: int | None  # width of the sliding-window layers


class Placer:
    """Makes the placements of a form's passes."""

    def __init__(self, masks: Masks, dtype: torch.dtype, device: torch.device) -> None:
        self.masks = masks
        self._dtype, self._device = dtype, device

    def place(self, batch: Batch, slots: KVCache) -> Placement:
        """Where the rows go and what they attend to, as the attention of this form wants it."""
        is_packed = slots.is_packed
        window = self.masks.window
        tables = [slots.table(segment.slot) for segment in batch.segments]
        if is_packed and slots.kernel is Kernel.POSITIONAL:
            table = make_table(batch, tables)
            written = on_device(table.rows[:, -1], self._device)
            return Placement(written, window=window or 0, table=table)
        places = make_places(batch, tables)
        segments = self._segment_rows(batch, tables)
        masks = tuple(self._mask_tensor(m, is_packed) for m in make_masks(batch, window))
        together = make_together(segments, self._device) if is_packed else None
        return Placement(on_device(places, self._device), segments, together=together, masks=masks)

    def _segment_rows(self, batch: Batch, tables: Tables) -> tuple[SegmentRows, ...]:
        found, start = [], 0
        for segment, table in zip(batch.segments, tables, strict=True):
            places = places_of(table, np.arange(segment.kv_span))
            found.append(
                SegmentRows(start, start + segment.num_rows, on_device(places, self._device))
            )
            start += segment.num_rows
        return tuple(found)

    def handed_masks(self, slots: KVCache) -> Any:
        """The masks as the model's forward takes them; placeholders for packed attention."""
        masks = slots.placement.masks
        if slots.is_packed:
            # A placeholder's last dimension tells its kind; see `packed_attention`.
            kinds = range(1 if self.masks.window is None else 2)
            shapes = [(1, 1, 1, 1 + kind) for kind in kinds]
            masks = tuple(torch.ones(s, dtype=torch.bool, device=self._device) for s in shapes)
        if not self.masks.by_layer_type:
            return masks[-1]  # a model whose layers all have windows takes theirs
        return _MaskByType(zip(("full_attention", "sliding_attention"), masks, strict=False))

    def _mask_tensor(self, mask: Any, is_packed: bool) -> Tensor:
        """[1, 1, rows, kv_len]: bool for our attention, additive where the model has its own,
        since an eager model adds whatever it gets."""
        allowed = on_device(mask, self._device)[None, None]
        if is_packed:
            return allowed
        lowest = torch.finfo(self._dtype).min
        return torch.zeros_like(allowed, dtype=self._dtype).masked_fill(~allowed, lowest)


class _MaskByType(dict[str, Tensor]):
    """Masks by the type of a layer; a layer that keeps a state needs none."""

    def __missing__(self, layer_type: str) -> None:
        return None


def on_device(array: Any, device: torch.device) -> Tensor:
    """An array as a tensor where the model is."""
    return torch.from_numpy(array).to(device, non_blocking=True)
