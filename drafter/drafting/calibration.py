"""What a namespace has learned about its drafts: how often each kind of evidence came true.

The ranking itself runs on these chances, so a node's probability is the measured one: of nodes sent
with 0.7, 70 % are accepted. A prior fitted over unlike workloads ships with the code.
"""

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from drafter.kernels import mixing as kernels

PRIOR_PATH = Path(__file__).parent / "prior.npz"
# How many outcomes the prior counts for against what a namespace measures itself.
PRIOR_CELL_COUNT = 30.0
PRIOR_BIN_COUNT = 60.0
PRIOR_STEP_COUNT = 100.0
# Agreeing or all occurrences a count class stands for.
_COUNTS = np.array([0.0, 1, 2, 3, 4.5, 7, 12, 20])
_SUCCESSOR_CHANCES = (0.40, 0.12, 0.06, 0.04, 0.03, 0.02, 0.015, 0.01, 0.01)


class Calibration:
    """The mixing model of one namespace, as one float32 array that the kernels update."""

    def __init__(self, model: NDArray[np.float32] | None = None) -> None:
        """Begin as the given model, or as the shipped prior, which nothing here changes."""
        self.model = prior() if model is None else model
        self._is_own = False

    @property
    def num_bytes(self) -> int:
        """Memory the model takes; nothing before the first outcome."""
        return self.model.nbytes if self._is_own else 0

    def reserve(self) -> None:
        """Make the model one that may be changed."""
        if not self._is_own:
            self.model, self._is_own = self.model.copy(), True

    def check(self) -> None:
        """Assert that every chance, weight and count lies where the kernels keep it."""
        try:
            checked_model(self.model)
        except ValueError as error:
            raise AssertionError(str(error)) from error


@cache
def prior() -> NDArray[np.float32]:
    """Return the fitted prior; FileNotFoundError where its file is gone."""
    if not PRIOR_PATH.exists():
        raise FileNotFoundError(f"{PRIOR_PATH}: this file belongs to the package; install it again")
    with np.load(PRIOR_PATH, allow_pickle=False) as arrays:
        return checked_model(unpacked(arrays["model"]))


def default_prior() -> NDArray[np.float32]:
    """Return what stands before any measurement: shares of occurrences, evenly mixed."""
    model = np.zeros(kernels.MODEL_LEN, np.float32)
    chances = model[kernels.CELL_CHANCE : kernels.CELL_LOGIT]
    shape = (kernels.NUM_PLACE_INPUTS, 2, kernels.NUM_COUNTS, kernels.NUM_COUNTS)
    evidence = chances[: kernels.NUM_EVIDENCE_CELLS].reshape(shape)
    for index in range(kernels.NUM_PLACE_INPUTS):
        level = index % kernels.NUM_LEVELS
        for latest in range(2):
            share = (_COUNTS[:, None] + 0.2 * latest + 0.02) / (_COUNTS + 0.5 + 0.6 / (level + 1))
            evidence[index, latest] = np.clip(share, 0.003, 0.98)
    chances[kernels.SUCCESSOR_CELL : kernels.LOCAL_CELL] = _SUCCESSOR_CHANCES
    shares = 0.5 ** np.arange(kernels.NUM_SHARES)
    shares[0] = 0.001
    chances[kernels.SHARED_CELL :] = shares
    chances[kernels.LOCAL_CELL : kernels.SHARED_CELL] = np.repeat(shares, kernels.NUM_RECENCIES)
    weights = model[kernels.WEIGHT : kernels.BIN_CHANCE].reshape(-1, kernels.NUM_INPUTS)
    weights[:, : kernels.BIAS_INPUT] = 0.15
    weights[:, kernels.SUCCESSOR_INPUT] = 0.05
    weights[kernels.RECYCLED_SET :] = 0.0
    recycled = weights[kernels.RECYCLED_SET : kernels.RECYCLED_HIT_RATE_SET]
    recycled[:, kernels.SUCCESSOR_INPUT] = 1.0
    # The longer the match that does not say so, the less the successors know.
    recycled[:, kernels.BIAS_INPUT] = -1.0 * np.arange(kernels.NUM_LEVELS + 1)
    model[kernels.CELL_COUNT : kernels.WEIGHT] = 2.0
    bins = model[kernels.BIN_CHANCE : kernels.BIN_COUNT].reshape(-1, kernels.NUM_BUCKETS)
    bins[:] = 1.0 / (1.0 + np.exp(-np.linspace(-8.0, 8.0, kernels.NUM_BUCKETS)))
    model[kernels.BIN_COUNT : kernels.STEP_CHANCE] = 10.0
    steps = model[kernels.STEP_CHANCE : kernels.STEP_COUNT]
    steps[:] = 1.0 / (1.0 + np.exp(-np.linspace(-8.0, 8.0, kernels.NUM_STEPS)))
    model[kernels.STEP_COUNT :] = 30.0
    set_logits(model)
    return model


def as_prior(model: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the model with its experience cut down to what a prior may count for."""
    softened = model.copy()
    for start, stop, most in (
        (kernels.CELL_COUNT, kernels.WEIGHT, PRIOR_CELL_COUNT),
        (kernels.BIN_COUNT, kernels.STEP_CHANCE, PRIOR_BIN_COUNT),
        (kernels.STEP_COUNT, kernels.MODEL_LEN, PRIOR_STEP_COUNT),
    ):
        np.minimum(softened[start:stop], most, out=softened[start:stop])
    return softened


def set_logits(model: NDArray[np.float32]) -> None:
    """Write the log-odds that belong to the cells' chances."""
    chances = model[kernels.CELL_CHANCE : kernels.CELL_LOGIT]
    model[kernels.CELL_LOGIT : kernels.CELL_COUNT] = np.log(chances / (1.0 - chances))


def packed(model: NDArray[np.float32]) -> NDArray[np.float16]:
    """Return the model as it is kept on disk: half precision is more than a prior knows."""
    return model.astype(np.float16)


def unpacked(stored: NDArray[np.float16]) -> NDArray[np.float32]:
    """Return the model a file holds, with chances that rounding took to 0 or 1 put right."""
    model = stored.astype(np.float32)
    if model.shape == (kernels.MODEL_LEN,):
        chances = model[kernels.CELL_CHANCE : kernels.CELL_LOGIT]
        np.clip(chances, 0.0005, 0.9995, out=chances)
        set_logits(model)
    return model


def checked_model(given: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a copy with every value known to be in its range; ValueError where one is not."""
    model = np.array(given)
    if model.shape != (kernels.MODEL_LEN,) or model.dtype != np.float32:
        raise ValueError(f"model: {model.dtype} of shape {model.shape} is not a calibration")
    if not np.isfinite(model).all():
        raise ValueError("model: a value is not finite")
    cells = model[kernels.CELL_CHANCE : kernels.CELL_LOGIT]
    bins = model[kernels.BIN_CHANCE : kernels.BIN_COUNT]
    steps = model[kernels.STEP_CHANCE : kernels.STEP_COUNT]
    if steps.min() < 0 or steps.max() > 1:
        raise ValueError("model: a step's probability is not in 0..1")
    if cells.min() <= 0 or cells.max() >= 1 or bins.min() < 0 or bins.max() > 1:
        raise ValueError("model: a probability is not in 0..1")
    for start, stop in (
        (kernels.CELL_COUNT, kernels.WEIGHT),
        (kernels.BIN_COUNT, kernels.STEP_CHANCE),
        (kernels.STEP_COUNT, kernels.MODEL_LEN),
    ):
        if model[start:stop].min() < 0:
            raise ValueError("model: a count is negative")
    if np.abs(model[kernels.WEIGHT : kernels.BIN_CHANCE]).max() > kernels.MAX_WEIGHT:
        raise ValueError(f"model: a weight is beyond {kernels.MAX_WEIGHT}")
    set_logits(model)
    return model
