"""Turns a GGUF file into a dense safetensors directory, which every other program loads."""

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer

STAGES = ("Reading the tokenizer", "Dequantising the weights", "Writing safetensors")


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


def save_dense(source: Path, target: Path, dtype: torch.dtype, say: Callable[[str], None]) -> None:
    """Fill the existing directory `target` with the model and its tokenizer; `say` the stages."""
    stages = iter(STAGES)
    # transformers opens the file for the configuration, the tokenizer and the weights in turn.
    gguf.GGUFReader = cache(PlainReader)  # type: ignore[assignment, misc]
    say(next(stages))
    tokenizer = AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name)
    say(next(stages))
    # Any: the declared type knows no quantizer.
    model: Any = AutoModelForCausalLM.from_pretrained(
        str(source.parent), gguf_file=source.name, dtype=dtype, trust_remote_code=False
    )
    say(next(stages))
    # The weights are dense now; without this they would still count as unsaveable GGUF blocks.
    model.hf_quantizer.remove_quantization_config(model)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


if __name__ == "__main__":
    given_source, given_target, given_dtype = sys.argv[1:]
    save_dense(
        Path(given_source), Path(given_target), getattr(torch, given_dtype), lambda stage: None
    )
