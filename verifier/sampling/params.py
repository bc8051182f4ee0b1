"""How tokens are chosen: validated sampling parameters."""

from dataclasses import dataclass

GREEDY_BELOW = 1e-5  # lower temperatures would overflow float32 logits


class SamplingError(RuntimeError):
    """The logits allow no choice: not finite, or every token is banned."""


class UnfulfillableError(SamplingError):
    """The request's own wishes allow no choice."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field  # of the contract
        self.problem = problem


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are chosen; the defaults are greedy."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int = 0

    @property
    def is_greedy(self) -> bool:
        """The most probable token wins, after penalties and bias."""
        return self.temperature < GREEDY_BELOW

    @property
    def has_output_penalties(self) -> bool:
        """Tokens of the output become less or more likely."""
        return bool(self.frequency_penalty or self.presence_penalty)

    @property
    def has_processors(self) -> bool:
        """Penalties or bias change the logits."""
        has_penalties = self.has_output_penalties or self.repetition_penalty != 1.0
        return bool(self.logit_bias) or has_penalties

    @property
    def has_filters(self) -> bool:
        """Unlikely tokens are left out of the draw."""
        return self.top_k > 0 or self.top_p < 1.0 or self.min_p > 0.0
