"""The comparison of very many words finds what it is there to find."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.exactness.__main__ import WAYS, Finding, compare
from bench.exactness.random_models import save_all
from bench.serving.engine import running_drafter
from verifier.engine import step
from verifier.speculation.tree import Accepted, accept

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory: Path = tmp_path_factory.mktemp("models")
    return next(save_all(directory))[1]


def run(checkpoint: str, way: str) -> Finding:
    with running_drafter() as drafter:
        return asyncio.run(
            compare("llama", checkpoint, WAYS[way], drafter, num_tokens=1, shape=(32, 24))
        )


@pytest.mark.parametrize("way", WAYS)
def test_drafts_are_accepted_and_change_no_word(checkpoint: str, way: str) -> None:
    finding = run(checkpoint, way)
    assert finding.num_compared == 32 * 24
    assert finding.num_accepted > 100
    # Rounding in 16 bits differs with the company in a pass, with drafts and without.
    is_near = all(difference.gap <= finding.margin for difference in finding.differences)
    assert is_near if way.endswith("guarded") else not finding.differences


def test_an_engine_that_accepts_a_wrong_token_is_found_out(
    checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def careless(tree: Any, choose: Any) -> Accepted:
        accepted = accept(tree, choose)
        if not len(tree) or len(accepted.token_ids) < 3:
            return accepted
        wrong = (accepted.token_ids[-1] + 1) % 512
        return replace(accepted, token_ids=(*accepted.token_ids[:-1], wrong))

    monkeypatch.setattr(step, "accept", careless)
    finding = run(checkpoint, "float32")
    assert finding.differences
    assert max(difference.gap for difference in finding.differences) > finding.margin
