"""Turns a GGUF file into a dense safetensors directory, which every other program loads.

Run as a child process, because torch and a second copy of the weights should not stay in the
command line's memory: `dense_model SOURCE TARGET DTYPE`. Each line on stdout names the stage that
begins.
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


def save_dense(source: Path, target: Path, dtype: torch.dtype) -> None:
    """Fill the existing directory `target` with the model and its tokenizer; say the stages."""
    stages = iter(STAGES)
    # transformers opens the file for the configuration, the tokenizer and the weights in turn.
    gguf.GGUFReader = cache(PlainReader)  # type: ignore[assignment, misc]
    _say(next(stages))
    tokenizer = AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name)
    _say(next(stages))
    # Any: the declared type knows no quantizer.
    model: Any = AutoModelForCausalLM.from_pretrained(
        str(source.parent), gguf_file=source.name, dtype=dtype, trust_remote_code=False
    )
    _say(next(stages))
    # The weights are dense now; without this they would still count as unsaveable GGUF blocks.
    model.hf_quantizer.remove_quantization_config(model)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _say(stage: str) -> None:
    sys.stdout.write(f"{stage}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    given_source, given_target, given_dtype = sys.argv[1:]
    save_dense(Path(given_source), Path(given_target), getattr(torch, given_dtype))
