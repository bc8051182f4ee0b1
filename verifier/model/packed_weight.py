"""Weights as the kernels of `verifier.kernels.product` read them, in the place of a model's own.

A packed weight looks like the parameter it replaces, so the model's code stays as it is. What the
model does with it (a linear layer, a lookup of rows, an expert of many) runs on the packed copy,
which is the only one. Where it does anything else the dense weight is made for the moment.

In a forward that is traced a product is one operation, which knows its weight by a handle.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_map

from verifier.kernels import product
from verifier.kernels.handles import Handles
from verifier.kernels.memory import WEIGHTS
from verifier.kernels.threads import Call
from verifier.kernels.vectors import LANES

NARROW = (torch.bfloat16, torch.float16)
_MULTIPLE = product.PANELS * LANES
_SCRATCH = product.scratch_size(0)
_SCRATCH_OF_ROW = product.scratch_size(1) - _SCRATCH


class Product:
    """Rows times one weight [outputs, inputs]."""

    def __init__(self, weight: Tensor) -> None:
        """Copy the weight, in the shortest type that holds it exactly."""
        self.num_outputs, self.num_inputs = weight.shape
        kept = _narrowed(weight)
        padded = F.pad(kept, (0, 0, 0, -len(kept) % _MULTIPLE))
        self.width = len(padded)
        panels = padded.view(-1, LANES, self.num_inputs).transpose(1, 2)
        self.panels = WEIGHTS.empty(tuple(panels.shape), panels.dtype).copy_(panels)
        kind = str(kept.dtype).removeprefix("torch.")
        self._call = Call(product.product_kernel(kind), product.NUM_FIELDS)
        fields = self._call.fields
        fields[product.WEIGHT] = self.panels.data_ptr()
        fields[product.NUM_INPUTS] = self.num_inputs
        fields[product.NUM_PANELS] = len(self.panels)
        self._biases: dict[int, tuple[Tensor, Tensor]] = {}
        self.handle = PRODUCTS.give(self)

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Multiply x [..., inputs]; the result [..., outputs] has its type."""
        is_ready = x.dtype is torch.float32 and x.is_contiguous()
        rows = x if is_ready else x.float().contiguous()
        num_rows = rows.numel() // self.num_inputs
        out = torch.empty(*x.shape[:-1], self.width, dtype=x.dtype)
        if num_rows:  # nobody may ask an expert
            self._call.fields[product.INPUT : product.NUM_FIELDS] = (
                rows.data_ptr(),
                0 if bias is None else self._padded(bias).data_ptr(),
                out.data_ptr(),
                _OUTPUT_KINDS[x.dtype],
                num_rows,
            )
            self._call.run(_SCRATCH + _SCRATCH_OF_ROW * num_rows)
        if self.width == self.num_outputs:
            return out
        # torch may compute by other instructions on rows that lie apart.
        return out[..., : self.num_outputs].contiguous()

    def rows(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """Look up outputs' weights: [..., inputs] for ids [...]."""
        return self.panels[ids // LANES, :, ids % LANES].to(dtype)

    def dense(self, dtype: torch.dtype) -> Tensor:
        """The weight [outputs, inputs] as it was."""
        whole = self.panels.transpose(1, 2).reshape(self.width, self.num_inputs)
        return whole[: self.num_outputs].to(dtype)

    def _padded(self, bias: Tensor) -> Tensor:
        """The bias in float32, as long as the panels; kept for the next time."""
        held = self._biases.get(id(bias))
        if held is None:
            padded = F.pad(bias.float(), (0, self.width - self.num_outputs)).contiguous()
            held = self._biases[id(bias)] = bias, padded
        return held[1]


PRODUCTS: Handles[Product] = Handles()


@torch.library.custom_op("lookahead::multiply", mutates_args=())
def multiply_operation(
    product: Tensor,  # its handle
    x: Tensor,
    bias: Tensor | None,
    num_outputs: int,
) -> Tensor:
    """A product as one node of a traced forward."""
    return PRODUCTS[product](x, bias)


@multiply_operation.register_fake
def _(product: Tensor, x: Tensor, bias: Tensor | None, num_outputs: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], num_outputs)


@torch.library.custom_op("lookahead::look_up", mutates_args=())
def look_up_operation(
    product: Tensor,  # its handle
    ids: Tensor,
    dtype: torch.dtype,
    num_inputs: int,
) -> Tensor:
    """A lookup of weights as one node of a traced forward."""
    return PRODUCTS[product].rows(ids, dtype).contiguous()


@look_up_operation.register_fake
def _(product: Tensor, ids: Tensor, dtype: torch.dtype, num_inputs: int) -> Tensor:
    return ids.new_empty(*ids.shape, num_inputs, dtype=dtype)


def _narrowed(weight: Tensor) -> Tensor:
    """The weight in half the bytes, where that loses nothing: most checkpoints are made so."""
    for dtype in NARROW if weight.dtype is torch.float32 else ():
        narrow = weight.to(dtype)
        if torch.equal(narrow.float(), weight):
            return narrow
    return weight


_OUTPUT_KINDS = {getattr(torch, name): i for i, name in enumerate(product.OUTPUT_KINDS)}


class PackedWeight(torch.Tensor):
    """A parameter [outputs, inputs], or [experts, outputs, inputs], that has no memory of its own.

    One that `is_transposed` is shown as [inputs, outputs].
    """

    products: list[Product]  # one, or one for each expert
    is_transposed: bool
    # What it shows, which nobody who traces a forward can ask a tensor of another kind for.
    shown_shape: tuple[int, ...]
    shown_dtype: torch.dtype

    @staticmethod
    def __new__(
        cls, shape: torch.Size, dtype: torch.dtype, products: list[Product], is_transposed: bool
    ) -> "PackedWeight":
        """Show `products` as a tensor of this shape and type."""
        made = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=dtype)
        made.products, made.is_transposed = products, is_transposed
        made.shown_shape, made.shown_dtype = tuple(shape), dtype
        return made

    @classmethod
    def pack(
        cls, weight: Tensor, *, is_transposed: bool = False, kind: type[Product] = Product
    ) -> "PackedWeight":
        """Take over a dense weight; `kind`: what multiplies by it."""
        with torch.inference_mode():
            parts = weight.detach().unbind() if weight.dim() == 3 else [weight.detach()]
            products = [kind(part.T if is_transposed else part) for part in parts]
        return cls(weight.shape, weight.dtype, products, is_transposed)

    def again(self) -> "PackedWeight":
        """The same weight as another tensor."""
        return PackedWeight(self.shape, self.dtype, self.products, self.is_transposed)

    def expert(self, index: Any) -> "PackedWeight":
        """The weight of one expert."""
        return PackedWeight(self.shape[1:], self.dtype, [self.products[index]], self.is_transposed)

    @property
    def kind(self) -> torch.dtype:
        """The type that the packed copy is kept in."""
        return self.products[0].panels.dtype

    @property
    def num_bytes(self) -> int:
        """Memory that the packed copy takes."""
        return sum(p.panels.nbytes for p in self.products)

    def dense(self) -> Tensor:
        """The tensor that this one stands for."""
        parts = [p.dense(self.dtype) for p in self.products]
        parts = [part.T for part in parts] if self.is_transposed else parts
        # In the layout that this tensor is thought to have, or it could not be viewed otherwise.
        return torch.stack(parts) if self.dim() == 3 else parts[0].contiguous()

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run what is known on the packed copy."""
        known = _KNOWN.get(func)
        with torch._C.DisableTorchFunctionSubclass():
            found = NotImplemented if known is None else known(*args, **kwargs or {})
            # torch's own would make a packed weight of the result, which has no products.
            return func(*args, **kwargs or {}) if found is NotImplemented else found

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch calls it so
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Make the dense weight for anything else."""
        args, kwargs = tree_map(_dense, (args, kwargs or {}))
        return func(*args, **kwargs)


def _dense(value: Any) -> Any:
    return value.dense() if isinstance(value, PackedWeight) else value


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    if not _is_matrix(weight, is_transposed=False):
        return NotImplemented
    return _multiplied(x, weight, bias)


def _matmul(x: Tensor, weight: Tensor) -> Any:
    if not _is_matrix(weight, is_transposed=True):
        return NotImplemented
    return _multiplied(x, weight, None)


def _addmm(bias: Tensor, x: Tensor, weight: Tensor) -> Any:
    if not _is_matrix(weight, is_transposed=True):
        return NotImplemented
    return _multiplied(x, weight, bias)


def _is_matrix(weight: Tensor, *, is_transposed: bool) -> bool:
    if not isinstance(weight, PackedWeight):
        return False
    return weight.is_transposed == is_transposed and len(weight.shown_shape) == 2


def _multiplied(x: Tensor, weight: Any, bias: Tensor | None) -> Tensor:
    product: Product = weight.products[0]
    if torch.compiler.is_compiling():
        found: Tensor = torch.ops.lookahead.multiply(product.handle, x, bias, product.num_outputs)
        return found
    return product(x, bias)


def _embedding(ids: Tensor, weight: Tensor, *_: Any, **__: Any) -> Any:
    if not isinstance(weight, PackedWeight) or weight.is_transposed:
        return NotImplemented
    product, dtype = weight.products[0], weight.shown_dtype
    if torch.compiler.is_compiling():
        return torch.ops.lookahead.look_up(product.handle, ids, dtype, product.num_inputs)
    return product.rows(ids, dtype)


def _item(weight: Tensor, index: Any) -> Any:
    is_one = isinstance(index, int) or (isinstance(index, Tensor) and index.dim() == 0)
    if not isinstance(weight, PackedWeight) or len(weight.shown_shape) != 3 or not is_one:
        return NotImplemented
    return weight.expert(index)


def _transpose(weight: Tensor) -> Any:
    if not isinstance(weight, PackedWeight) or len(weight.shown_shape) != 2:
        return NotImplemented
    shape = torch.Size(reversed(weight.shown_shape))
    return PackedWeight(shape, weight.shown_dtype, weight.products, not weight.is_transposed)


_KNOWN: dict[Any, Callable[..., Any]] = {
    F.linear: _linear,
    F.embedding: _embedding,
    torch.addmm: _addmm,
    torch.matmul: _matmul,
    Tensor.matmul: _matmul,
    Tensor.__matmul__: _matmul,
    Tensor.__getitem__: _item,
    Tensor.T.__get__: _transpose,  # type: ignore[attr-defined]
}
