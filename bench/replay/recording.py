"""What one replay measured, step by step, and the figures that follow from it."""

from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

NUM_BINS = 10
# Calibration is judged once a source has had this many requests to learn from.
SETTLING_REQUESTS = 20


@dataclass(slots=True)
class Recording:
    """Raw measurements of one source on one workload."""

    num_requests: int = 0
    num_tokens: int = 0
    num_accepted: int = 0
    drafted: list[int] = field(default_factory=list)
    propose_ns: list[int] = field(default_factory=list)
    observe_ns: list[int] = field(default_factory=list)
    observed_tokens: int = 0
    # All that keeps the memory up to date, over the tokens of prompts and outputs.
    update_ns: int = 0
    updated_tokens: int = 0
    memory_bytes: int = 0
    memory_tokens: int = 0
    # Per node sent after settling: its probability, and whether the true path went through it.
    probabilities: list[NDArray[np.float64]] = field(default_factory=list)
    outcomes: list[NDArray[np.bool_]] = field(default_factory=list)

    def add_nodes(self, probabilities: NDArray[np.float64], accepted: list[int]) -> None:
        """Note one draft's nodes for calibration, if the source has settled."""
        if self.num_requests < SETTLING_REQUESTS:
            return
        outcome = np.zeros(len(probabilities), dtype=np.bool_)
        outcome[accepted] = True
        self.probabilities.append(probabilities)
        self.outcomes.append(outcome)


@dataclass(frozen=True, slots=True)
class Bin:
    """Nodes whose probability fell into one tenth, and how many of them were right."""

    low: float
    num_nodes: int
    mean_probability: float
    accepted_share: float


@dataclass(frozen=True, slots=True)
class Figures:
    """One row of the report."""

    requests: int
    steps: int
    tokens_per_step: float
    drafted_per_step: float
    precision: float
    expected_accepted_per_step: float | None
    propose_us_p50: float
    propose_us_p99: float
    observe_us_p50: float
    observe_us_p99: float
    observe_us_per_token: float
    update_us_per_token: float
    bytes_per_learned_token: float | None
    ece: float | None
    calibration: tuple[Bin, ...]

    def to_json(self) -> dict[str, object]:
        """Give the row as plain JSON values."""
        return asdict(self)


def figures(recording: Recording) -> Figures:
    """Reduce a recording to the figures of the report."""
    steps = len(recording.drafted)
    probabilities = np.concatenate([np.zeros(0), *recording.probabilities])
    outcomes = np.concatenate([np.zeros(0, dtype=np.bool_), *recording.outcomes])
    bins = _bins(probabilities, outcomes)
    judged = len(recording.probabilities)
    per_token = sum(recording.observe_ns) / 1e3 / max(1, recording.observed_tokens)
    memory = recording.memory_bytes / max(1, recording.memory_tokens)
    return Figures(
        requests=recording.num_requests,
        steps=steps,
        tokens_per_step=recording.num_tokens / max(1, steps),
        drafted_per_step=sum(recording.drafted) / max(1, steps),
        precision=recording.num_accepted / max(1, sum(recording.drafted)),
        expected_accepted_per_step=float(probabilities.sum()) / judged if judged else None,
        propose_us_p50=_percentile_us(recording.propose_ns, 50),
        propose_us_p99=_percentile_us(recording.propose_ns, 99),
        observe_us_p50=_percentile_us(recording.observe_ns, 50),
        observe_us_p99=_percentile_us(recording.observe_ns, 99),
        observe_us_per_token=per_token,
        update_us_per_token=recording.update_ns / 1e3 / max(1, recording.updated_tokens),
        bytes_per_learned_token=memory if recording.memory_bytes else None,
        ece=calibration_error(bins) if judged else None,
        calibration=bins,
    )


def calibration_error(bins: tuple[Bin, ...]) -> float:
    """Average |said - true| over all nodes sent: the expected calibration error."""
    total = sum(each.num_nodes for each in bins)
    gaps = (each.num_nodes * abs(each.mean_probability - each.accepted_share) for each in bins)
    return sum(gaps) / max(1, total)


def _bins(probabilities: NDArray[np.float64], outcomes: NDArray[np.bool_]) -> tuple[Bin, ...]:
    index = np.minimum((probabilities * NUM_BINS).astype(int), NUM_BINS - 1)
    return tuple(
        Bin(
            low=number / NUM_BINS,
            num_nodes=int((index == number).sum()),
            mean_probability=float(probabilities[index == number].mean()),
            accepted_share=float(outcomes[index == number].mean()),
        )
        for number in sorted(set(index.tolist()))
    )


def _percentile_us(values_ns: list[int], percent: float) -> float:
    return float(np.percentile(values_ns, percent)) / 1e3 if values_ns else 0.0
