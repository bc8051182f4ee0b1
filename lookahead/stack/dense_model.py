"""Turns a GGUF file into a dense safetensors directory, which every other program loads.

Run as a child process, because torch and a second copy of the weights should not stay in the
command line's memory: `dense_model SOURCE TARGET DTYPE`. The type `auto` is that of the file's
weights, float32 where they are quantised. Each line on stdout names the stage that begins.
"""

import sys
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer

STAGES = ("Reading the tokenizer", "Dequantising the weights", "Writing safetensors")


END_IDS = tuple(f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom"))
DENSE_TYPES = {
    gguf.GGMLQuantizationType.BF16: torch.bfloat16,
    gguf.GGMLQuantizationType.F16: torch.float16,
}


class PlainReader(gguf.GGUFReader):
    """Reads the 800,000 values before the weights through an array without memmap's own slicing.

    That slicing takes most of the time that reading takes.
    """

    @property  # type: ignore[override]
    def data(self) -> NDArray[np.uint8]:
        """The file's bytes."""
        return self._data

    @data.setter
    def data(self, mapped: NDArray[np.uint8]) -> None:
        self._data = np.asarray(mapped)


def save_dense(source: Path, target: Path, dtype: str) -> None:
    """Fill the existing directory `target` with the model and its tokenizer; say the stages."""
    stages = iter(STAGES)
    reader = PlainReader(source)
    # transformers opens the file for the configuration, the tokenizer and the weights in turn.
    gguf.GGUFReader = cache(PlainReader)  # type: ignore[assignment, misc]
    _say(next(stages))
    tokenizer = AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name)
    _say(next(stages))
    # Any: the declared type knows no quantizer.
    model: Any = AutoModelForCausalLM.from_pretrained(
        str(source.parent),
        gguf_file=source.name,
        dtype=_dtype(reader, dtype),
        trust_remote_code=False,
    )
    _say(next(stages))
    # The weights are dense now; without this they would still count as unsaveable GGUF blocks.
    model.hf_quantizer.remove_quantization_config(model)
    if ids := end_ids(reader, tokenizer):
        model.generation_config.eos_token_id = ids
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def end_ids(reader: gguf.GGUFReader, tokenizer: Any) -> list[int]:
    """Ids that end an answer: of the text, of a turn and of a message, as the file names them."""
    named = (_value(reader, name) for name in END_IDS)
    found = {int(i) for i in named if i is not None}
    if END_IDS[0] not in reader.fields and tokenizer.eos_token_id is not None:
        found.add(tokenizer.eos_token_id)
    return sorted(i for i in found if 0 <= i < len(tokenizer))


def _dtype(reader: gguf.GGUFReader, wanted: str) -> torch.dtype:
    if wanted == "auto":
        # Vectors are float32 in any file.
        kinds = {tensor.tensor_type for tensor in reader.tensors if len(tensor.shape) > 1}
        return DENSE_TYPES.get(kinds.pop(), torch.float32) if len(kinds) == 1 else torch.float32
    found: torch.dtype = getattr(torch, wanted)
    return found


def _value(reader: gguf.GGUFReader, name: str) -> Any:
    field = reader.fields.get(name)
    return field.contents() if field is not None else None


def _say(stage: str) -> None:
    sys.stdout.write(f"{stage}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    given_source, given_target, given_dtype = sys.argv[1:]
    save_dense(Path(given_source), Path(given_target), given_dtype)
