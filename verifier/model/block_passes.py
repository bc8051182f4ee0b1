"""Passes of packed rows by the kernels of a GPU; all that changes with a pass is one block."""

from typing import Any

import torch
from torch import Tensor

from verifier.cache.kv_cache import KVCache
from verifier.cache.placement import PassBlock, Placement
from verifier.kernels import tiled_layout as layout
from verifier.model.batch import Batch, make_table
from verifier.model.captured import Capture, CapturedPasses, Outputs, host_tensor, padded_rows
from verifier.model.pass_block import HostBlock, make_block
from verifier.model.placing import Placer
from verifier.sampling.ranking import Ranking, rank, ranked, read_ranked

# Best tokens of a row that a captured pass finds: as many as drafters are told of.
NUM_RANKED = 8


class BlockPasses:
    """Runs passes over one cache, captured where there is a `capture`."""

    def __init__(
        self,
        model: Any,
        slots: KVCache,
        placer: Placer,
        *,
        cache_name: str,
        capture: Capture | None,
    ) -> None:
        self._model, self._slots, self._placer = model, slots, placer
        self._cache_name = cache_name
        self._tile_rows, self._work_bytes = _cut(model, slots)
        self._device = slots.row_views()[0][0].device
        self._ranked: tuple[Tensor, Tensor] | None = None  # of the last captured pass, and its best
        self._captured = capture and CapturedPasses(
            self._run_all,
            capture,
            tile_rows=self._tile_rows,
            num_works=self._room,
            device=self._device,
        )

    def prepare(self) -> None:
        """Capture what will be replayed."""
        if self._captured:
            self._captured.capture_all()

    def forward(self, batch: Batch) -> Tensor:
        """Float32 logits [rows that want them, vocabulary], until the next pass."""
        block = self._host_block(batch)
        wanted, self._ranked = batch.logit_rows, None
        captured = self._captured and self._captured.run(
            block.numbers, block.num_rows, block.num_works
        )
        if not captured:
            return self._run_some(self._on_device(block), torch.from_numpy(wanted))
        logits, best = captured
        if len(wanted) and wanted[-1] - wanted[0] + 1 == len(wanted):
            kept: Any = slice(int(wanted[0]), int(wanted[-1]) + 1)
        else:
            kept = torch.from_numpy(wanted).to(self._device, non_blocking=True)
        logits = logits[kept]
        self._ranked = logits, best[kept]
        return logits

    def rank(self, logits: Tensor, k: int) -> Ranking:
        """The best tokens of the last pass, which may have found them itself."""
        if self._ranked is None or self._ranked[0] is not logits or k > NUM_RANKED:
            return rank(logits, k)
        return read_ranked(logits, self._ranked[1], k)

    def _host_block(self, batch: Batch) -> HostBlock:
        tables = [self._slots.table(segment.slot) for segment in batch.segments]
        return make_block(
            make_table(batch, tables),
            batch.token_ids,
            tile_rows=self._tile_rows,
            num_rows=padded_rows(len(batch.token_ids)),
        )

    def _on_device(self, block: HostBlock) -> PassBlock:
        numbers = torch.empty(len(block.numbers), dtype=torch.int32, device=self._device)
        numbers.copy_(host_tensor(block.numbers, numbers), non_blocking=True)
        return PassBlock(numbers, block.num_rows, block.num_works, self._tile_rows)

    def _room(self, num_rows: int) -> int:
        """Pieces of work that a captured pass has room for."""
        splits = -(-self._slots.capacity // layout.SPAN)
        return max(min(num_rows * splits, layout.SCRATCH_BYTES // self._work_bytes), num_rows)

    def _run_all(self, block: PassBlock) -> Outputs:
        """Logits of all rows, those that only pad the pass included, and their best tokens."""
        logits = self._model(**self._inputs(block)).logits[0].float()
        return logits, ranked(logits, NUM_RANKED)

    def _run_some(self, block: PassBlock, wanted: Tensor) -> Tensor:
        inputs = self._inputs(block)
        if not len(wanted):
            self._model.base_model(**inputs)
            vocabulary_size = self._model.get_input_embeddings().weight.size(0)
            return torch.empty(0, vocabulary_size, device=self._device)
        rows = wanted.to(self._device, non_blocking=True)
        logits: Tensor = self._model(**inputs, logits_to_keep=rows).logits[0]
        # A model without logits_to_keep returns every row.
        return (logits if len(logits) == len(rows) else logits[rows]).float()

    def _inputs(self, block: PassBlock) -> dict[str, Any]:
        self._slots.placement = Placement(
            block.numbers, window=self._placer.masks.window or 0, block=block
        )
        start = layout.HEADER
        end = start + layout.ROW_FIELDS * block.num_rows
        rows = block.numbers[start:end].view(block.num_rows, layout.ROW_FIELDS)
        return {
            "input_ids": rows[:, layout.TOKEN].long()[None],
            "position_ids": rows[:, layout.POSITION].long()[None],
            "attention_mask": self._placer.handed_masks(self._slots),
            self._cache_name: self._slots.cache,
            "use_cache": True,
        }


def _cut(model: Any, slots: KVCache) -> tuple[int, int]:
    """Rows of a tile, and what a piece of work leaves to be merged, over the layers of a model."""
    shapes = {(len(keys), values.shape[-1]) for keys, values in slots.row_views()}
    config = model.config.get_text_config()
    num_heads = getattr(config, "num_attention_heads", None) or max(heads for heads, _ in shapes)
    groups = [max(num_heads // heads, 1) for heads, _ in shapes]
    rows = layout.tile_rows(groups)
    sizes = [layout.work_bytes(num_heads, *shape, rows) for shape in shapes]
    return rows, max(sizes)
