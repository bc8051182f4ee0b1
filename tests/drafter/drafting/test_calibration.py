"""Probabilities come true, wrong ones are unlearned, and a hostile model is refused."""

import re
from pathlib import Path

import numpy as np
import pytest

from drafter.drafting import calibration
from drafter.drafting.calibration import (
    Calibration,
    as_prior,
    checked_model,
    default_prior,
    packed,
    prior,
    unpacked,
)
from drafter.drafting.sessions import DraftSessions
from drafter.kernels import mixing as kernels

NUM_WORDS = 40


def test_probabilities_come_true_on_a_random_language() -> None:
    chooser = np.random.default_rng(1)
    table = chooser.dirichlet(np.full(NUM_WORDS, 0.1), NUM_WORDS)
    claimed, true = [], []
    sessions = DraftSessions()
    for sequence_id in range(20):
        text = [0]
        for _ in range(150):
            text.append(int(chooser.choice(NUM_WORDS, p=table[text[-1]])))
        sessions.open(sequence_id, space="a", token_ids=text[:50])
        for token in text[50:]:
            tree = sessions.propose(sequence_id, 8)
            first = tree.parents == -1
            if sequence_id >= 8:
                claimed.extend(tree.probabilities[first].tolist())
                true.extend((tree.token_ids[first] == token).tolist())
            sessions.observe(sequence_id, [token])
        sessions.close(sequence_id)
    assert expected_calibration_error(np.array(claimed), np.array(true)) < 0.05


def expected_calibration_error(claimed: np.ndarray, true: np.ndarray) -> float:
    bins = np.minimum((claimed * 10).astype(int), 9)
    error = 0.0
    for index in range(10):
        inside = bins == index
        if inside.any():
            error += inside.mean() * abs(claimed[inside].mean() - true[inside].mean())
    return error


def test_what_keeps_failing_is_drafted_with_falling_probability() -> None:
    sessions = DraftSessions()
    sessions.open(1, space="a", token_ids=[1, 2, 3, 4])
    chances = []
    for step in range(200):
        sessions.observe(1, [1, 2])
        tree = sessions.propose(1, 4)
        chances.append(float(tree.probabilities[tree.token_ids == 3].sum()))
        sessions.observe(1, [100 + step])
    assert np.mean(chances[-20:]) < 0.3 * np.mean(chances[:5])


def test_unverified_nodes_do_not_count_as_verified() -> None:
    sessions = DraftSessions()
    sessions.open(1, space="a", token_ids=[1, 2, 3, 4, 5, 1, 2])
    sessions.propose(1, 8)
    steps = sessions.memory("a").calibration.model[kernels.STEP_CHANCE :].copy()
    sessions.observe(1, [3], num_verified=0)
    assert np.array_equal(steps, sessions.memory("a").calibration.model[kernels.STEP_CHANCE :])


def test_the_shipped_prior_fits_this_layout_and_survives_packing() -> None:
    assert not np.array_equal(prior(), default_prior())
    assert prior().shape == (kernels.MODEL_LEN,)
    assert np.allclose(unpacked(packed(prior())), prior(), atol=0.02)
    softened = as_prior(default_prior() + np.float32(0.0))
    assert softened[kernels.CELL_COUNT : kernels.WEIGHT].max() <= 30


def test_a_missing_prior_is_named_and_not_replaced(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(calibration, "PRIOR_PATH", tmp_path / "prior.npz")
    prior.cache_clear()
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "prior.npz"))):
        Calibration()


@pytest.mark.parametrize(
    ("index", "value"),
    [
        (kernels.CELL_CHANCE, 1.0),
        (kernels.CELL_CHANCE, np.nan),
        (kernels.CELL_COUNT, -1.0),
        (kernels.WEIGHT, 1e9),
        (kernels.BIN_CHANCE, 1.5),
        (kernels.BIN_COUNT, np.inf),
        (kernels.STEP_CHANCE, -0.5),
        (kernels.STEP_COUNT, -3.0),
    ],
)
def test_a_hostile_model_is_refused(index: int, value: float) -> None:
    hostile = Calibration().model.copy()
    hostile[index] = value
    with pytest.raises(ValueError, match="model"):
        checked_model(hostile)


@pytest.mark.parametrize("model", [np.zeros(3, np.float32), np.zeros(9, np.float64)])
def test_a_model_of_another_shape_is_refused(model: np.ndarray) -> None:
    with pytest.raises(ValueError, match="model"):
        checked_model(model)


def test_what_comes_true_raises_the_measured_chance_of_its_kind() -> None:
    sessions = DraftSessions()
    sessions.open(1, space="a", token_ids=[1, 2, 3, 4, 5, 1, 2])
    prior, bins = (
        sessions.memory("a").calibration.model,
        slice(kernels.BIN_CHANCE, kernels.BIN_COUNT),
    )
    before = prior[bins].copy()
    assert sessions.propose(1, 1).token_ids.tolist() == [3]
    sessions.observe(1, [3])
    after = sessions.memory("a").calibration.model[bins]
    assert (prior[bins] == before).all(), "what all new spaces begin with has changed"
    assert (after > before).any()
