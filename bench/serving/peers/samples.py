"""What was measured: one sample for each round, task, way and state of the memory."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.serving.peers.protocol import Answer


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table: a way, and what its memory held."""

    system: str
    method: str
    memory: str = ""  # cold, warm, or empty where nothing is remembered

    @property
    def name(self) -> str:
        """What it is called."""
        return ", ".join(part for part in (self.system, self.method, self.memory) if part)


@dataclass(frozen=True, slots=True)
class Sample:
    """Seconds and tokens of one task."""

    dtype: str
    task: str
    row: Row
    round: int
    seconds: float
    num_tokens: int
    num_steps: int | None = None
    texts: list[str] = field(default_factory=list)


def token_ms(sample: Sample) -> float:
    """Milliseconds a token."""
    return 1e3 * sample.seconds / sample.num_tokens


def tokens_per_s(sample: Sample) -> float:
    """Tokens a second."""
    return sample.num_tokens / sample.seconds


def tokens_per_step(sample: Sample) -> float:
    """Tokens that a decode step of a sequence brought; 1 where the server does not tell."""
    return sample.num_tokens / sample.num_steps if sample.num_steps else 1.0


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds, tokens and steps of batches of answers."""

    seconds: float
    num_tokens: int
    num_steps: int | None
    texts: list[str]


def decoding(batches: Sequence[Sequence[Answer]]) -> Spent:
    """Each batch lasts from its first token to its last; a first token comes with its prompt."""
    answers = [answer for batch in batches for answer in batch]
    seconds = (max(a.end_s for a in batch) - min(a.first_s for a in batch) for batch in batches)
    steps = [answer.num_steps for answer in answers]
    return Spent(
        sum(seconds),
        sum(answer.num_tokens - 1 for answer in answers),
        None if None in steps else sum(step or 0 for step in steps),
        [answer.text for answer in answers],
    )
