"""The fitted prior is a calibration like any other, and worth more than the reasoned one."""

import numpy as np
import pytest

from bench.replay.fit_prior import fit, judge
from bench.replay.traces import Request
from drafter.drafting.calibration import (
    PRIOR_CELL_COUNT,
    Calibration,
    checked_model,
    default_prior,
)
from drafter.kernels import mixing as kernels


def copying(number: int, seed: int) -> list[Request]:
    """Make requests whose outputs copy their prompts but for single tokens."""
    chooser = np.random.default_rng(seed)
    made = []
    for index in range(number):
        prompt = chooser.integers(0, 300, 60)
        output = prompt.copy()
        output[chooser.integers(0, 60, 5)] = chooser.integers(300, 400, 5)
        made.append(Request(str(index), prompt.tolist(), output.tolist()))
    return made


@pytest.fixture(scope="module")
def fitted() -> Calibration:
    return fit([copying(6, 1), copying(6, 2)], seed=0)


def test_what_was_fitted_is_a_calibration_that_counts_for_little(fitted: Calibration) -> None:
    assert np.array_equal(checked_model(fitted.model), fitted.model)
    assert fitted.model[kernels.CELL_COUNT : kernels.WEIGHT].max() <= PRIOR_CELL_COUNT


def test_a_fitted_prior_drafts_unseen_requests_of_the_kind_better(fitted: Calibration) -> None:
    unseen = copying(6, 3)
    reasoned = judge(unseen, Calibration(default_prior()), 4, remembers=False)
    assert judge(unseen, fitted, 4, remembers=False) > 1.02 * reasoned
