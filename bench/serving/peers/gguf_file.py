"""Writes a quantised GGUF file's weights as float32 or bfloat16, everything else as it was."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from lookahead.stack.dense_model import PlainReader

TYPES = {
    "float32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "bfloat16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
}
BF16 = gguf.GGMLQuantizationType.BF16
OWN_FIELDS = ("GGUF.", "general.architecture", "general.file_type", "general.quantization")


def write_dense_gguf(source: Path, target: Path, *, checkpoint: str, dtype: str) -> None:
    """Write the values that a checkpoint of one type, made of `source`, has in another type."""
    reader = PlainReader(source)
    kind, file_type = TYPES[dtype]
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    _copy_fields(reader, writer)
    writer.add_file_type(file_type)
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        if checkpoint == "bfloat16":
            values = _rounded(values)
        # llama.cpp keeps vectors, such as the weights of norms, in float32.
        if len(tensor.shape) == 1 or dtype == "float32":
            writer.add_tensor(tensor.name, values)
        else:
            writer.add_tensor(tensor.name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _copy_fields(reader: Any, writer: Any) -> None:
    for name, field in reader.fields.items():
        if not name.startswith(OWN_FIELDS):
            element = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(name, field.contents(), field.types[0], element)


def _rounded(values: NDArray[np.float32]) -> NDArray[np.float32]:
    rounded: NDArray[np.float32] = gguf.quants.dequantize(gguf.quants.quantize(values, BF16), BF16)
    return rounded
