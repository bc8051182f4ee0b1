"""Compiles the kernels of a GPU for a card, without one, and says what they use of it.

`python -m tests.support.models.gpu_compile 90` prints a line for each kernel and shape; with `few`
behind it, for those that use most. Attention in float32, whose products no tensor core takes, is
left out: it spills some bytes, and some hundred with wide heads.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from verifier.kernels import tiled_attention as attention
from verifier.kernels import tiled_layout as layout
from verifier.kernels import tiled_product as product

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
# The newer one, where there are two: what Triton writes is too new for the other.
PTXAS = next(path for path in (TOOLS / "ptxas-blackwell", TOOLS / "ptxas") if path.exists())
OF_KIND = ("queries", "keys", "values", "new_keys", "new_values", "out", "x", "weight", "bias")
POINTERS = {"partial": "*fp32", "stats": "*fp32", "parts": "*fp32", "sinks": "*fp32"}
POINTERS |= {"table": "*i32", "tiles": "*i32", "sources": "*i64"}
FLOATS = ("scale", "cap")


@dataclass(frozen=True)
class Layer:
    """What a model's attention asks for."""

    group: int
    key_dim: int
    value_dim: int
    has_cap: bool = False
    has_window: bool = False


FEW = {
    "bf16": (
        Layer(1, 64, 64),
        Layer(4, 128, 128),
        Layer(2, 256, 256, has_cap=True, has_window=True),
    ),
    "fp16": (Layer(1, 192, 128),),
    "fp32": (),
}
LAYERS = (
    Layer(1, 64, 64),
    Layer(3, 64, 64),
    Layer(1, 80, 80),
    Layer(1, 96, 96, has_window=True),
    Layer(4, 128, 128),
    Layer(8, 128, 128, has_window=True),
    Layer(8, 64, 64, has_window=True),
    Layer(2, 256, 256, has_cap=True, has_window=True),
    Layer(4, 256, 256),
    Layer(16, 128, 128),
    Layer(48, 128, 128),
    Layer(1, 192, 128),
)


ALL = {"bf16": LAYERS, "fp16": LAYERS, "fp32": ()}


def compile_all(capability: int, layers: Mapping[str, Sequence[Layer]]) -> Iterator[str]:
    """One line for each kernel and shape; `layers`: by type of the weights."""
    for kind in layers:
        for layer in layers[kind]:
            yield f"attend {kind} {layer} {_attend(layer, kind, capability)}"
            yield f"merge {kind} {layer} {_merge(layer, kind, capability)}"
        constants = {"KEY_DIM": 256, "VALUE_DIM": 128}
        yield f"store {kind} {_used(attention.KERNELS['store'], constants, kind, capability, 1)}"
        for has_experts in (False, True):
            yield f"multiply {kind} {has_experts} {_multiply(kind, capability, has_experts)}"
        constants = {"HAS_BIAS": True, "SIZE": 1024}
        kernel = product.KERNELS["add_parts"]
        yield f"add_parts {kind} {_used(kernel, constants, kind, capability, 4)}"


def _attend(layer: Layer, kind: str, capability: int) -> str:
    rows = layout.tile_rows([layer.group])
    lines = layout.num_lines(layer.group, rows)
    width, chunk = layout.padded(layer.value_dim), attention.key_chunk(layer.key_dim)
    constants = {
        "GROUP": layer.group,
        "TILE_ROWS": rows,
        "LINES": lines,
        "CHUNK": chunk,
        "CHUNKS": -(-layer.key_dim // chunk),
        "VALUE_DIM": width,
        "PAGE": layout.BLOCK,
        "PAGES": layout.SPLIT,
        "NEVER": attention.LOW,
        "HAS_CAP": layer.has_cap,
        "HAS_WINDOW": layer.has_window,
        "PRECISION": _precision(kind),
    }
    num_warps = attention.num_warps(lines, width, 4 if kind == "fp32" else 2)
    return _used(attention.KERNELS["attend"], constants, kind, capability, num_warps)


def _merge(layer: Layer, kind: str, capability: int) -> str:
    lines = layout.num_lines(layer.group, layout.tile_rows([layer.group]))
    constants = {
        "GROUP": layer.group,
        "LINES": lines,
        "VALUE_DIM": layout.padded(layer.value_dim),
        "POSITIONS": layout.SPAN,
        "NEVER": attention.LOW,
        "HAS_SINKS": True,
        "HAS_WINDOW": layer.has_window,
    }
    return _used(attention.KERNELS["merge"], constants, kind, capability, 1)


def _multiply(kind: str, capability: int, has_experts: bool) -> str:
    constants = {
        "HAS_BIAS": True,
        "HAS_EXPERTS": has_experts,
        "PRECISION": _precision(kind),
        "ROWS": product.ROW_TILE,
        "OUTPUTS": product.OUTPUT_TILE,
        "INPUTS": 32 if kind == "fp32" else 64,
        "weight_input": 1,
    }
    kernel = product.KERNELS["multiply"]
    stages = {"num_stages": product.NUM_STAGES}
    num_warps = product.num_warps(4 if kind == "fp32" else 2)
    return _used(kernel, constants, kind, capability, num_warps, **stages)


def _precision(kind: str) -> str:
    return "ieee" if kind == "fp32" else "tf32"


def _used(
    kernel: Any,
    constants: dict[str, Any],
    kind: str,
    capability: int,
    num_warps: int,
    **options: int,
) -> str:
    names = kernel.arg_names
    signature = {name: _type(name, kind) for name in names if name not in constants}
    full = {name: signature.get(name, "constexpr") for name in names}
    values = {(names.index(name),): value for name, value in constants.items()}
    aligned = {
        (names.index(name),): [["tt.divisibility", 16]]
        for name, type_ in signature.items()
        if type_.startswith("*") or _is_aligned(name)
    }
    source = ASTSource(kernel, full, values, aligned)
    target = GPUTarget("cuda", capability, 32)
    made = triton.compile(source, target=target, options={"num_warps": num_warps, **options})
    said = _assembled(made.asm["ptx"], capability)
    spilled = sum(map(int, re.findall(r"(\d+) bytes spill stores", said)))
    registers = max(map(int, re.findall(r"Used (\d+) registers", said)))
    return f"spilled={spilled} shared={made.metadata.shared} registers={registers}"


def _is_aligned(name: str) -> bool:
    """Numbers that are multiples of 16 for the models there are."""
    return name.endswith(("_dim", "_row", "_inputs", "_output", "_expert")) or (
        name.endswith("_head") and name != "query_head"
    )


def _type(name: str, kind: str) -> str:
    if name in POINTERS:
        return POINTERS[name]
    if name in OF_KIND:
        return f"*{kind}"
    return "fp32" if name in FLOATS else "i32"


def _assembled(ptx: str, capability: int) -> str:
    name = f"sm_{capability}" + ("a" if capability >= 90 else "")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(ptx)
        command = [str(PTXAS), "-v", f"--gpu-name={name}", str(path), "-o", os.devnull]
        return subprocess.run(command, capture_output=True, text=True, check=True).stderr


if __name__ == "__main__":
    chosen = FEW if "few" in sys.argv else ALL
    for line in compile_all(int(sys.argv[1]), chosen):
        print(line, flush=True)  # noqa: T201
