"""Tensor parallelism: one model over several processes that torchrun starts, one per GPU.

Every process holds its share of the weights and of the KV cache and takes part in every pass.
Rank 0 serves and decides; before it runs a method of its model it tells the others, who run the
same one. transformers cuts the weights by the model's own plan.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from transformers import PreTrainedConfig

from verifier.cache.kv_cache import KVCache
from verifier.cache.slot_layers import LayerShape
from verifier.model.batch import Segment
from verifier.model.model import TargetModel, VerificationMode
from verifier.model.placing import Masks

logger = logging.getLogger(__name__)

# A server may be idle for as long as it likes; a process that ends is noticed at once all the same.
IDLE = timedelta(days=365)
STOP = "stop"
Move = tuple[list[int], list[int]]


class ParallelError(ValueError):
    """The model cannot be cut as asked for."""


@dataclass(frozen=True, slots=True)
class Group:
    """The processes of one model; of size 1 without torchrun."""

    rank: int = 0
    size: int = 1

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> "Group":
        """Read what torchrun sets."""
        return cls(int(environ.get("RANK", 0)), int(environ.get("WORLD_SIZE", 1)))

    def check(self, name: str, config: PreTrainedConfig) -> None:
        """Raise ParallelError where the model has no plan or its heads cannot be shared out."""
        text = config.get_text_config()
        if not getattr(text, "base_model_tp_plan", None):
            raise ParallelError(
                f"{name} cannot be cut over {self.size} processes: transformers has no "
                f"tensor-parallel plan for the model type {text.model_type}; start one process"
            )
        for field in ("num_attention_heads", "num_key_value_heads"):
            count = getattr(text, field, None)
            if count is not None and count % self.size:
                raise ParallelError(
                    f"{name} cannot be cut over {self.size} processes: "
                    f"{field} = {count} is not a multiple of {self.size}"
                )

    def join(self, device: str) -> None:
        """Meet the other processes; passes talk over NCCL on GPUs, over gloo on CPUs."""
        is_cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
        if is_cuda:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", self.rank)))
        dist.init_process_group("nccl" if is_cuda else "gloo", timeout=IDLE)


class RankZeroModel(TargetModel):
    """Rank 0's model: the others follow each method that runs the model or moves its rows."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.num_processes = dist.get_world_size()
        self._others = _control_group()
        self._moves: list[Move] = []  # of rows, since the last pass

    def use_plain(self, num_slots: int, reason: str) -> None:
        """Refuse: the caches of sequences that draft nothing are not kept on all ranks."""
        raise ParallelError(f"{self.name} cannot be cut over processes: {reason}")

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
        """Serve trees, on all ranks."""
        sizes = {"num_slots": num_slots, "capacity": capacity, "num_pages": num_pages}
        self._tell("use_slots", form, shapes, masks, **sizes)
        super().use_slots(
            form, shapes, masks, num_slots=num_slots, capacity=capacity, num_pages=num_pages
        )
        assert isinstance(self.slots, KVCache)
        self._moves = []
        self.slots.on_move = lambda *move: self._moves.append(move)

    def forward(
        self,
        segments: list[Segment],
        tables: Mapping[int, Sequence[int]] | None = None,
        moves: Sequence[Move] = (),
    ) -> torch.Tensor:
        """Run the rows on all ranks, which know no pages and no moves but those they are told."""
        assert isinstance(self.slots, KVCache)
        for segment in segments:
            self.slots.reserve(segment.slot, segment.kv_span)
        tables = {segment.slot: self.slots.table(segment.slot) for segment in segments}
        self.slots.make_moves()
        moves, self._moves = self._moves, []
        self._tell("forward", segments, tables, moves)
        return super().forward(segments)

    def stock_logits(self, token_ids: list[int]) -> torch.Tensor:
        """Logits of one uncached pass over all ranks."""
        self._tell("stock_logits", token_ids)
        return super().stock_logits(token_ids)

    def short_cache(self) -> Any:
        """The cache of a short pass over all ranks."""
        self._tell("short_cache")
        return super().short_cache()

    def stop(self) -> None:
        """Let the others end; nothing runs after this."""
        self._tell(STOP)
        dist.destroy_process_group()

    def _tell(self, name: str, *arguments: Any, **options: Any) -> None:
        dist.broadcast_object_list([(name, arguments, options)], src=0, group=self._others)


def follow(model: TargetModel) -> None:
    """Run what rank 0 runs until it stops; RuntimeError where it goes away without a word."""
    control = _control_group()
    while True:
        told: list[Any] = [None]
        dist.broadcast_object_list(told, src=0, group=control)
        name, arguments, options = told[0]
        if name == STOP:
            dist.destroy_process_group()
            return
        try:
            getattr(model, name)(*arguments, **options)
        except (TypeError, ValueError, RuntimeError, AttributeError, LookupError) as error:
            # Rank 0 fails the same way, and decides what follows: a form that is not right, say.
            logger.info("followed_into_error method=%s error=%s", name, error)


def _control_group() -> Any:
    """Messages between the processes themselves, which go over the network, not between GPUs."""
    return dist.new_group(backend="gloo", timeout=IDLE)
