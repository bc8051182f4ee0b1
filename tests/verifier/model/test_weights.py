"""A checkpoint is whole, or refused at start by the names of what it lacks."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from verifier.model.weights import CheckpointError, check_complete, load_weights

UP = "model.layers.1.mlp.up_proj.weight"


def changed(saved_model: Path, folder: Path, change: Callable[[dict[str, Tensor]], object]) -> str:
    """A copy of the model with other tensors."""
    for file in saved_model.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).symlink_to(file)
    tensors = load_file(saved_model / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


def test_a_missing_tensor_is_named(saved_model: Path, tmp_path: Path) -> None:
    path = changed(saved_model, tmp_path, lambda tensors: tensors.pop(UP))
    with pytest.raises(CheckpointError, match=rf"lacks {UP}$"):
        load_weights(path, device="cpu", dtype="auto")


def test_scales_that_nobody_would_read_are_named(saved_model: Path, tmp_path: Path) -> None:
    scale = f"{UP}_scale"
    path = changed(saved_model, tmp_path, lambda tensors: tensors.update({scale: torch.ones(1)}))
    with pytest.raises(CheckpointError, match=rf"quantised.* {scale}$"):
        load_weights(path, device="cpu", dtype="auto")


def test_other_tensors_may_be_left_over(saved_model: Path, tmp_path: Path) -> None:
    extra = {"model.layers.1.self_attn.k_scale": torch.ones(1), "vision.weight": torch.ones(2)}
    path = changed(saved_model, tmp_path, lambda tensors: tensors.update(extra))
    assert load_weights(path, device="cpu", dtype="auto").num_parameters()


def test_a_few_of_many_names_are_enough() -> None:
    with pytest.raises(CheckpointError, match=r"^m lacks a, b, c and 2 more$"):
        check_complete("m", set("abcde"), ())
