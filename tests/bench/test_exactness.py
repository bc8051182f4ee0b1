"""The comparison of very many words finds what it is there to find."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from bench.exactness.__main__ import compare_all
from bench.exactness.random_models import VOCABULARY, save_family
from bench.exactness.requests import LINES, ascii_grammars
from bench.exactness.runs import NUM_SLOTS
from bench.exactness.ways import WAYS, Finding
from bench.serving.engine import running_drafter
from verifier.config import VerifierConfig
from verifier.engine import step
from verifier.speculation.tree import Accepted, accept

pytestmark = pytest.mark.slow

SHAPE = (16, 24)  # requests, tokens of each


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory: Path = tmp_path_factory.mktemp("models")
    return save_family("llama", directory)


def run(checkpoint: str) -> dict[str, Finding]:
    settings: dict[str, Any] = {"dtype": "float32", "max_context": 512, "max_sequences": NUM_SLOTS}
    config = VerifierConfig(model=checkpoint, **settings)
    grammar = ascii_grammars(VOCABULARY).compile(LINES)
    with running_drafter() as drafter:
        found = asyncio.run(
            compare_all("llama", config, grammar, drafter, num_tokens=1, shape=SHAPE)
        )
    return {finding.way: finding for finding in found}


def test_every_way_changes_no_word_and_no_bit(checkpoint: str) -> None:
    found = run(checkpoint)
    assert set(found) == {way.name for way in WAYS}
    assert all(one.num_compared > SHAPE[0] * SHAPE[1] / 2 for one in found.values())
    assert found["drafted"].num_accepted > 50
    assert found["rows reused"].num_reused > 100
    assert not any(one.num_reused for way, one in found.items() if way != "rows reused")
    assert {way: one.num_different for way, one in found.items()} == dict.fromkeys(found, 0)


def test_an_engine_that_accepts_a_wrong_token_is_found_out(
    checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def careless(tree: Any, choose: Any) -> Accepted:
        accepted = accept(tree, choose)
        if len(tree) and len(accepted.token_ids) >= 3:
            accepted.token_ids[-1] = (accepted.token_ids[-1] + 1) % VOCABULARY
        return accepted

    monkeypatch.setattr(step, "accept", careless)
    found = run(checkpoint)
    assert found["drafted"].num_different > 10
