"""The target model: segments of token ids in, logits out. The only file that runs transformers.

A loaded model is served in the strongest form that a probe finds right (`probe.py`): PACKED runs
trees of many sequences in one pass, SINGLE one sequence per pass, CHAIN drafts without branches and
those sequences in one pass that run as many rows, PLAIN no drafts.
"""

import enum
import hashlib
import inspect
import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel

from verifier.cache.chain_slots import ChainLayer, ChainSlots
from verifier.cache.kv_cache import KVCache
from verifier.cache.placement import Kernel
from verifier.cache.slot_layers import LayerShape
from verifier.cache.stateful_slots import StatefulSlots
from verifier.kernels.threads import kernels_only
from verifier.kernels.vectors import LANES
from verifier.model import attention
from verifier.model.batch import (
    Batch,
    Segment,
    make_batch,
    make_chains,
)
from verifier.model.block_passes import BlockPasses
from verifier.model.compilation import CompiledLayers
from verifier.model.packed_weight import PackedWeight
from verifier.model.packing import pack_weights, unpack_weights
from verifier.model.placing import Masks, Placer, on_device
from verifier.model.rung import Rung, Tools, kernel_for
from verifier.sampling.ranking import Ranking, rank

logger = logging.getLogger(__name__)


class VerificationMode(enum.Enum):
    """How a model verifies drafts."""

    PACKED = "trees, many sequences in one forward pass"
    SINGLE = "trees, one sequence per forward pass"
    CHAIN = "chains"
    PLAIN = "no drafts"


@dataclass(frozen=True, slots=True)
class ChainWay:
    """How the passes of a model that keeps a state are made."""

    masks: Masks
    is_packed: bool  # with our attention
    is_never_alone: bool  # a row alone would go another way through the model, which is not right
    is_joined: bool  # chains of as many rows run in one pass


class TargetModel:
    """A causal language model with slots for its running sequences.

    Call it from one thread at a time.
    """

    def __init__(
        self, model: PreTrainedModel, name: str, *, max_context: int, attention: str = "auto"
    ) -> None:
        """`attention`: the value of a `Kernel`, or `auto`."""
        self.name = name
        self.num_processes = 1
        self.max_context = max_context
        self.device = next(model.parameters()).device
        self.dtype = next(model.parameters()).dtype
        self.architecture = type(model).__name__
        self.vocabulary_size = int(model.get_input_embeddings().weight.size(0))  # type: ignore[operator]
        self.form, self.reason = VerificationMode.PLAIN, "not probed yet"
        # Whether each row's bits are independent of the rest of its pass; else the reason.
        self.bitwise, self.not_bitwise_reason = False, "not checked yet"
        self.recommended: Mapping[str, float] = {}  # sampling, by field of the contract
        self.slots: KVCache | StatefulSlots = StatefulSlots(1)
        self._model = model
        self._kernel = Kernel.MASKED
        # Why neither the kernel nor the way passes are launched is a better one.
        self.attention_reason = self.rung_reason = ""
        self.rung = Rung.EAGER
        self._stock_experts = getattr(model.config, "_experts_implementation", None)
        self._placer = Placer(Masks(False, None), self.dtype, self.device)
        self._tools = Tools()
        self._compiled: CompiledLayers | None = None
        self._passes: BlockPasses | None = None
        self._stock_attention = model.config._attn_implementation
        self._is_never_alone = self._joins_chains = False
        names = inspect.signature(model.forward).parameters
        self._cache_name = "cache_params" if "cache_params" in names else "past_key_values"
        kernel = kernel_for(attention, self.device)
        is_without = kernel is Kernel.MASKED and attention == "auto" and self.device.type == "cuda"
        self.use_kernel(kernel, "Triton is not installed" if is_without else "")

    @property
    def variant(self) -> str:
        """How its passes are made, beyond what its fingerprint says."""
        kinds = sorted(str(p.kind) for p in self._model.parameters() if isinstance(p, PackedWeight))
        parts = (self.form.name, self._placer.masks, self._joins_chains, self._is_never_alone)
        made = " ".join(map(str, (*parts, *dict.fromkeys(kinds))))
        return f"{made} {self.rung.value}"

    @property
    def joins_chains(self) -> bool:
        """Whether chains of as many rows run in one pass."""
        return self._joins_chains

    @property
    def attention(self) -> str:
        """The value of the `Kernel` that packed passes attend by."""
        return self._kernel.value

    @property
    def fingerprint(self) -> str:
        """Hash of the configuration and of every weight's name, shape and type."""
        weights = [(n, list(p.shape), str(p.dtype)) for n, p in self._model.named_parameters()]
        config = self._model.config.to_dict()
        described = json.dumps([config, weights], sort_keys=True, default=str)
        return hashlib.sha256(described.encode()).hexdigest()[:32]

    def use_plain(self, num_slots: int, reason: str) -> None:
        """Serve without drafts, each sequence with the model's own cache."""
        self.form, self.reason = VerificationMode.PLAIN, reason
        self._set_attention(self._stock_attention)
        self.slots, self._passes = StatefulSlots(num_slots), None

    def use_slots(
        self,
        form: VerificationMode,
        shapes: list[LayerShape],
        masks: Masks,
        *,
        num_slots: int,
        capacity: int,
        num_pages: int | None = None,
    ) -> None:
        """Serve trees; `capacity`: rows that a sequence may have."""
        self.form, self.reason = form, ""
        self._placer = Placer(masks, self.dtype, self.device)
        is_packed = form is VerificationMode.PACKED
        if is_packed and self._kernel is Kernel.POSITIONAL:
            shapes = [shape.padded_to(LANES) for shape in shapes]
        self.slots = KVCache(
            shapes,
            num_slots=num_slots,
            capacity=capacity,
            num_pages=num_pages,
            dtype=self.dtype,
            device=self.device,
            is_packed=is_packed,
            kernel=self._kernel,
        )
        self._set_attention(attention.NAME if is_packed else self._stock_attention)
        self._passes = None
        if is_packed and self._kernel is Kernel.TILED:
            self._passes = self._block_passes(self.slots)

    def _block_passes(self, slots: KVCache) -> BlockPasses:
        if self._compiled is not None:
            self._compiled.bind(slots.cache.layers)  # type: ignore[arg-type]
        return BlockPasses(
            self._model,
            slots,
            self._placer,
            cache_name=self._cache_name,
            capture=None if self.rung is Rung.EAGER else self._tools.capture(),
        )

    def use_chains(
        self,
        layers: list[ChainLayer],
        way: ChainWay,
        *,
        num_slots: int,
        capacity: int,
        num_pages: int | None = None,
    ) -> None:
        """Serve chains, from slots that keep states beside keys and values."""
        self.form, self.reason = VerificationMode.CHAIN, ""
        self._placer, self._passes = Placer(way.masks, self.dtype, self.device), None
        self._is_never_alone, self._joins_chains = way.is_never_alone, way.is_joined
        if way.is_packed and self._kernel is Kernel.POSITIONAL:
            layers = [layer.padded_to(LANES) for layer in layers]
        self.slots = ChainSlots(
            layers,
            num_slots=num_slots,
            capacity=capacity + 1,  # a chain may end with a row that only pads it
            num_pages=num_pages,
            dtype=self.dtype,
            device=self.device,
            is_packed=way.is_packed,
            kernel=self._kernel,
        )
        self._set_attention(attention.NAME if way.is_packed else self._stock_attention)

    @property
    def launch_reason(self) -> str:
        """Why its passes are not made in a faster way; empty where none was left out."""
        return self.attention_reason or self.rung_reason

    @property
    def kernel(self) -> Kernel:
        """What packed passes attend by."""
        return self._kernel

    def use_kernel(self, kernel: Kernel, reason: str = "") -> None:
        """Attend by a kernel, and multiply as goes with it; `reason`: why by no better one."""
        if self._kernel is not Kernel.MASKED:
            unpack_weights(self._model, self._stock_experts)
        self._kernel, self.attention_reason = kernel, reason
        self._set_attention(self._stock_attention)
        if kernel is Kernel.POSITIONAL:
            pack_weights(self._model)
        elif kernel is Kernel.TILED:
            from verifier.model.tiled import TiledProduct

            pack_weights(self._model, TiledProduct)

    def use_rung(self, rung: Rung, tools: Tools, reason: str = "") -> None:
        """Launch the passes of caches to come this way; `reason`: why not by a faster one."""
        if self._compiled is not None:
            self._compiled.undo()
        self._compiled = None
        self.rung, self.rung_reason, self._tools = rung, reason, tools
        self._set_attention(self._stock_attention)
        if rung is Rung.COMPILED:
            self._compiled = CompiledLayers(self._model.base_model, tools.compiler)

    def prepare(self) -> None:
        """Capture what is replayed while serving; later passes wait for nothing."""
        if self._passes is not None:
            with torch.inference_mode():
                self._passes.prepare()

    def rank(self, logits: Tensor, k: int) -> Ranking:
        """The best tokens of each row that the last pass returned; waits for the device."""
        return rank(logits, k) if self._passes is None else self._passes.rank(logits, k)

    @torch.inference_mode()
    def forward(
        self,
        segments: list[Segment],
        tables: Mapping[int, Sequence[int]] | None = None,
        moves: Sequence[tuple[list[int], list[int]]] = (),
    ) -> Tensor:
        """Run the rows; return float32 logits [rows that want them, vocabulary] in order.

        They hold until the next pass, which may write to the same memory.
        `tables`, `moves`: the slots' pages and the rows to copy first, where another process keeps
        count of them.
        """
        if isinstance(self.slots, StatefulSlots):
            return self._forward_plain(segments, self.slots)
        self.slots.make_moves()
        for sources, targets in moves:
            self.slots.move_rows(sources, targets)
        self.slots.set_tables(tables or {})
        for segment in segments:
            has_room = self.slots.reserve(segment.slot, segment.kv_span)
            assert has_room, f"there are no pages for slot {segment.slot}"
        if isinstance(self.slots, ChainSlots):
            return self._forward_chains(segments, self.slots)
        if self.form is VerificationMode.PACKED:
            return self._forward_slots(make_batch(segments), self.slots)
        batches = [make_batch([segment]) for segment in segments]
        return torch.cat([self._forward_slots(batch, self.slots) for batch in batches])

    def commit(self, slot: int, rows: list[int]) -> None:
        """Keep these rows of the slot's last segment."""
        with torch.inference_mode():
            self.slots.commit(slot, rows)

    def _forward_chains(self, segments: list[Segment], slots: ChainSlots) -> Tensor:
        """A pass for each number of rows, or each segment where chains cannot be joined."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, segment in enumerate(segments):
            num_rows = slots.num_pending(segment.slot) + segment.num_rows
            own = 0 if self._joins_chains else index
            groups.setdefault((num_rows, slots.has_state(segment.slot), own), []).append(index)
        logits: dict[int, Tensor] = {}
        for (num_rows, *_), indices in groups.items():
            found = self._forward_group([segments[i] for i in indices], num_rows, slots)
            logits |= zip(indices, found, strict=True)
        return torch.cat([logits[index] for index in range(len(segments))])

    def _forward_group(
        self, segments: list[Segment], num_rows: int, slots: ChainSlots
    ) -> list[Tensor]:
        """One pass over the slots' pending tokens and the segments'."""
        is_padded = self._is_never_alone and num_rows == 1
        pendings = [
            slots.begin(s.slot, s.token_ids, is_padded=is_padded, is_marked=s.is_marked)
            for s in segments
        ]
        own = [segment.slot for segment in segments]
        slots.show(own)
        logits = self._forward_slots(make_chains(segments, pendings, is_padded=is_padded), slots)
        slots.end(own)
        each = logits.view(len(segments), -1, self.vocabulary_size)
        return [
            rows[len(rows) - s.num_logit_rows :] for rows, s in zip(each, segments, strict=True)
        ]

    def _forward_slots(self, batch: Batch, slots: KVCache) -> Tensor:
        if self._passes is not None:
            return self._passes.forward(batch)
        with kernels_only() if self._kernel is Kernel.POSITIONAL else nullcontext():
            return self._forward_rows(batch, slots)

    def _forward_rows(self, batch: Batch, slots: KVCache) -> Tensor:
        slots.placement = self._placer.place(batch, slots)
        masks = self._placer.handed_masks(slots)
        inputs = {
            "input_ids": self._tensor(batch.token_ids).view(batch.num_chains, -1),
            "position_ids": self._tensor(batch.positions).view(batch.num_chains, -1),
            "attention_mask": masks,
            self._cache_name: slots.cache,
            "use_cache": True,
        }
        if len(batch.logit_rows) == 0:
            self._model.base_model(**inputs)
            return torch.empty(0, self.vocabulary_size, device=self.device)
        rows = self._tensor(batch.logit_rows)
        logits: Tensor = self._model(**inputs, logits_to_keep=rows).logits
        # A model without logits_to_keep returns every row.
        logits = logits if logits.shape[1] == len(rows) else logits[:, rows]
        return logits.flatten(0, 1).float()

    def _forward_plain(self, segments: list[Segment], slots: StatefulSlots) -> Tensor:
        """One pass per sequence, exactly as transformers' own generate would."""
        logits = []
        for segment in segments:
            output = self._model(
                input_ids=torch.tensor([segment.token_ids], device=self.device),
                past_key_values=slots.cache(segment.slot, self._model.config),
                use_cache=True,
            )
            slots.keep(segment.slot, output, segment.num_rows)
            logits.append(output.logits[0, -segment.num_logit_rows :].float())
        return torch.cat(logits)

    def short_cache(self) -> DynamicCache:
        """What a short pass with the model's own attention leaves in a cache."""
        cache = DynamicCache()
        with torch.inference_mode():
            ids = torch.tensor([[1, 2]], device=self.device)
            self._model(input_ids=ids, past_key_values=cache, use_cache=True)
        return cache

    def own_cache(self) -> Cache | None:
        """What a short pass leaves in the cache that the model makes for itself."""
        with torch.inference_mode():
            ids = torch.tensor([[1, 2]], device=self.device)
            output = self._model(input_ids=ids, use_cache=True)
        cache = getattr(output, self._cache_name, None)
        return cache if isinstance(cache, Cache) else None

    def stock_logits(self, token_ids: list[int]) -> Tensor:
        """Logits [rows, vocabulary] of one uncached pass with the model's own attention."""
        current = self._model.config._attn_implementation
        self._set_attention(self._stock_attention)
        try:
            with torch.inference_mode():
                ids = torch.tensor([token_ids], device=self.device)
                logits: Tensor = self._model(input_ids=ids, use_cache=False).logits[0].float()
        finally:
            self._set_attention(current)
        return logits

    def _set_attention(self, name: str) -> None:
        if self._model.config._attn_implementation != name:
            self._model.set_attn_implementation(name)

    def _tensor(self, array: Any) -> Tensor:
        return on_device(array, self.device)
