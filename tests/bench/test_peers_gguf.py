"""The GGUF file that llama.cpp loads holds the values of the checkpoint that the others load."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bench.serving.peers.gguf_file import write_dense_gguf
from tests.support.models.tiny_gguf import write_gguf


def values(path: Path) -> dict[str, NDArray[np.float32]]:
    return {
        tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        for tensor in gguf.GGUFReader(path).tensors
    }


def rounded(array: NDArray[np.float32]) -> NDArray[np.float32]:
    result: NDArray[np.float32] = torch.tensor(array).bfloat16().float().numpy()
    return result


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("checkpoint", ["float32", "bfloat16"])
def test_matrices_are_rounded_as_torch_rounds_them(
    tmp_path: Path, checkpoint: str, dtype: str
) -> None:
    source = write_gguf(tmp_path / "source.gguf")
    write_dense_gguf(source, tmp_path / "dense.gguf", checkpoint=checkpoint, dtype=dtype)
    expected, found = values(source), values(tmp_path / "dense.gguf")
    assert expected.keys() == found.keys()
    is_narrow = "bfloat16" in (checkpoint, dtype)
    for name in (name for name in expected if expected[name].ndim == 2):
        matrix = rounded(expected[name]) if is_narrow else expected[name]
        np.testing.assert_array_equal(found[name], matrix)


def test_everything_else_stays_as_it_was(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "source.gguf")
    write_dense_gguf(source, tmp_path / "dense.gguf", checkpoint="float32", dtype="bfloat16")
    before, after = (gguf.GGUFReader(p).fields for p in (source, tmp_path / "dense.gguf"))
    kept = [name for name in before if not name.startswith("GGUF.")]
    assert {name: before[name].contents() for name in kept} == {
        name: after[name].contents() for name in kept
    }
