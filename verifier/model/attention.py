"""Attention over packed rows: each sequence's rows meet only its own keys and values.

Registered with transformers under the name "lookahead". The cache hands a layer's new keys and
values on; here they are written to their places, and the rows attend to what they may: on a CPU by
the kernel that takes each row by itself, on a GPU by the same in Triton (`tiled`), which is there
only, or by `masked_attention`. A forward that is traced calls the same as one operation, so that
the whole of it is one graph.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AttentionInterface

from verifier.cache.pages import PAGE
from verifier.cache.placement import RowTable
from verifier.cache.slot_layers import LAYERS, SlotLayer
from verifier.kernels import attention as kernel
from verifier.kernels.threads import Call, num_threads
from verifier.kernels.vectors import TILE
from verifier.model.masked_attention import attend_masked

NAME = "lookahead"
assert kernel.BLOCK == PAGE, "the kernel reads a page as one block"


def register() -> None:
    """Make the attention known to transformers; models choose it by name."""
    AttentionInterface.register(NAME, packed_attention)
    # cuDNN plans anew for each length that it sees, half a second each; ours differs at every step.
    torch.backends.cuda.enable_cudnn_sdp(False)


def packed_attention(
    module: nn.Module,
    query: Tensor,  # [chains, heads, rows, dim]; mostly one for all rows
    key: Tensor,  # [chains, kv_heads, rows, dim]
    value: Tensor,  # [chains, kv_heads, rows, value_dim]
    attention_mask: Tensor | None,  # a placeholder: its last dimension tells the kind of layer
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """Attend; return [chains, rows, heads, value_dim] and no weights."""
    assert attention_mask is not None, "packed attention needs its mask"
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    has_window = attention_mask.shape[-1] > 1
    num_chains = len(query)
    is_traced = torch.compiler.is_compiling()
    layer: Any = key.slot_handle if is_traced else key.slot_layer  # type: ignore[attr-defined]
    if num_chains > 1:
        query, key, value = _in_line(query), _in_line(key), _in_line(value)
    attend = torch.ops.lookahead.attend if is_traced else _attend
    found = attend(layer, query, key, value, s_aux, has_window, scaling, softcap or 0.0)
    return found.view(num_chains, -1, *found.shape[1:]), None


def _attend(
    layer: SlotLayer,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sinks: Tensor | None,
    has_window: bool,
    scaling: float,
    softcap: float,  # 0: none
) -> Tensor:
    """Attend as the pass was placed."""
    place = layer.owner.placement
    attend = attend_masked if place.table is None else attend_by_position
    if place.block is not None:
        from verifier.model.tiled import attend_tiled as attend
    return attend(layer, query, key, value, has_window, scaling, softcap or None, sinks)


@torch.library.custom_op("lookahead::attend", mutates_args=())
def attend_operation(
    layer: Tensor,  # its handle
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sinks: Tensor | None,
    has_window: bool,
    scaling: float,
    softcap: float,
) -> Tensor:
    """The attention as one node of a traced forward.

    What it writes and where it reads stays hidden: nobody else touches a layer's keys and values
    while a pass runs, and its result depends on all that it is given.
    """
    arguments = (query, key, value, sinks, has_window, scaling, softcap)
    return _attend(LAYERS[layer], *arguments).contiguous()


@attend_operation.register_fake
def _(layer: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: object) -> Tensor:
    return query.new_empty(query.shape[2], query.shape[1], value.shape[-1])


def _in_line(x: Tensor) -> Tensor:
    """[1, heads, chains x rows, dim] from [chains, heads, rows, dim]."""
    return x.transpose(0, 1).flatten(1, 2)[None]


def attend_by_position(
    layer: SlotLayer,
    query: Tensor,  # [1, heads, rows, dim]
    key: Tensor,  # [1, kv_heads, rows, dim]
    value: Tensor,  # [1, kv_heads, rows, value_dim]
    has_window: bool,
    scaling: float,
    softcap: float | None,
    sinks: Tensor | None,  # [heads]
) -> Tensor:
    """Write the pass's keys and values; return what its rows read, [rows, heads, value_dim]."""
    place = layer.owner.placement
    assert place.table is not None
    call = layer.attention_call or LayerCall(layer)
    assert isinstance(call, LayerCall)
    layer.attention_call = call
    queries = _rows(query, call.key_dim).float()
    keys, values = _rows(key, call.key_dim), _rows(value, call.value_dim)
    num_rows, num_heads, _ = queries.shape
    group = num_heads // keys.shape[1]
    output = torch.empty(num_rows, num_heads, call.value_dim)
    lowest = None if sinks is None else sinks.float().contiguous()
    call.fields[kernel.NUM_ROWS : kernel.NUM_FIELDS] = (
        num_rows,
        keys.data_ptr(),
        values.data_ptr(),
        keys.shape[1],
        queries.data_ptr(),
        output.data_ptr(),
        *_described(place.table, group, keys.shape[1]),
        num_heads,
        group,
        place.window if has_window else 0,
        call.scales(scaling, softcap or 0.0),
        0 if lowest is None else lowest.data_ptr(),
    )
    call.run()
    return output[..., : value.shape[-1]].to(query.dtype)


class LayerCall:
    """The kernel over one layer's keys and values."""

    def __init__(self, layer: SlotLayer) -> None:
        store, attend = kernel.attention_kernels(str(layer.keys.dtype).removeprefix("torch."))
        self.key_dim, self.value_dim = layer.keys.shape[-1], layer.values.shape[-1]
        self._attend = Call(attend, kernel.NUM_FIELDS)
        self._store = store
        self._scratch_size = kernel.scratch_size(self.key_dim, self.value_dim)
        self._scales = np.zeros(2, np.float32)
        self._last_scales = (0.0, 0.0)
        self._scales_address = self._scales.ctypes.data
        self.fields = self._attend.fields
        self.fields[kernel.KEYS : kernel.NUM_ROWS] = (
            layer.keys.data_ptr(),
            layer.values.data_ptr(),
            self.key_dim,
            self.value_dim,
            layer.keys.stride(0),
            layer.values.stride(0),
        )

    def scales(self, scaling: float, cap: float) -> int:
        """The address of both, which are the same in every pass."""
        if self._last_scales != (scaling, cap):
            self._last_scales = (scaling, cap)
            self._scales[:] = scaling, cap
        return self._scales_address

    def run(self) -> None:
        """Write the new keys and values, then attend."""
        self._attend.run_alone(self._store)
        self._attend.run(self._scratch_size)


def _rows(x: Tensor, dim: int) -> Tensor:
    """[rows, heads, dim] from [1, heads, rows, at most dim], filled up with zeros."""
    rows = x[0].transpose(0, 1)
    return F.pad(rows, (0, dim - rows.shape[-1])) if rows.shape[-1] < dim else rows.contiguous()


def _described(table: RowTable, group: int, key_heads: int) -> tuple[int, ...]:
    known = table.pieces.get((group, key_heads))
    if known is None:
        pieces = _cut(table, group, key_heads)
        arrays = (table.rows, table.places, table.tables, pieces)
        addresses = (array.ctypes.data for array in arrays)
        known = table.pieces[group, key_heads] = (pieces, (*addresses, len(pieces)))
    return known[1]


def _cut(table: RowTable, group: int, key_heads: int) -> NDArray[np.int64]:
    """The work of a pass in pieces, enough of them for all threads."""
    lines = kernel.LINES
    totals = [(first, (end - first) * group) for first, end in table.runs]
    while lines > TILE and (
        sum(-(-total // lines) for _, total in totals) * key_heads < 2 * num_threads()
    ):
        lines //= 2
    pieces = [
        (first, line, min(line + lines, total), head)
        for first, total in totals
        for head in range(key_heads)
        for line in range(0, total, lines)
    ]
    return np.array(pieces, np.int64)
