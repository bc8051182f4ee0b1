"""Sampling that the model's makers recommend, read from beside the weights."""

import json
from pathlib import Path
from typing import Any

import pytest

from verifier.config import VerifierConfig
from verifier.loading import load_model
from verifier.model.generation_config import recommended_sampling

FOUND = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0.05, "repetition_penalty": 1.1}
OTHERS = {"do_sample": True, "max_new_tokens": 7, "eos_token_id": 3}


def write(folder: Path, fields: dict[str, Any]) -> None:
    (folder / "generation_config.json").write_text(json.dumps(fields))


def test_the_fields_that_vllm_takes_are_read(tmp_path: Path) -> None:
    write(tmp_path, FOUND | OTHERS)
    assert recommended_sampling(str(tmp_path)) == FOUND
    write(tmp_path, {"temperature": 0.6} | OTHERS)
    assert recommended_sampling(str(tmp_path)) == {"temperature": 0.6}


@pytest.mark.parametrize("text", [None, "{", "{}"])
def test_without_a_file_of_that_kind_nothing_is_recommended(
    tmp_path: Path, text: str | None
) -> None:
    if text is not None:
        (tmp_path / "generation_config.json").write_text(text)
    assert recommended_sampling(str(tmp_path)) == {}


@pytest.mark.parametrize(("setting", "expected"), [("auto", {"top_k": 5}), ("none", {})])
def test_a_setting_switches_them_off(
    tmp_path: Path, saved_model: Path, setting: Any, expected: dict[str, float]
) -> None:
    for file in saved_model.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "generation_config.json").unlink()
    write(tmp_path, {"top_k": 5})
    config = VerifierConfig(model=str(tmp_path), generation_config=setting, max_context=64)
    assert load_model(config).recommended == expected
