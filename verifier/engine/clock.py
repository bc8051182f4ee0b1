"""The times of one request, and what its steps would have taken without drafts."""

import time
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class PlainStep:
    """What a step would have cost without drafts, in seconds."""

    token_s: float  # for each token that a sequence emitted in it: a pass of its own
    prompts_s: float = 0.0  # for the prompts that were read in it, once


@dataclass(slots=True)
class Clock:
    """When a sequence passed its stations, in seconds; 0 where it has not yet."""

    submitted: float = field(default_factory=time.perf_counter)
    admitted: float = 0.0
    first_token: float = 0.0
    ended: float = 0.0
    plain_decode_s: float = 0.0  # what the decoding steps so far would have taken without drafts

    def phases(self) -> "Phases":
        """Return where each phase ended, or now for one that has not ended yet."""
        end = self.ended or time.perf_counter()
        return Phases(self.submitted, self.admitted or end, self.first_token or end, end)


@dataclass(frozen=True, slots=True)
class Phases:
    """A request's time in the queue, reading its prompt, and decoding; in seconds."""

    submitted: float
    admitted: float
    first_token: float
    ended: float

    @property
    def queue_s(self) -> float:
        """From submission to a slot."""
        return self.admitted - self.submitted

    @property
    def prefill_s(self) -> float:
        """From a slot to the first token."""
        return self.first_token - self.admitted

    @property
    def decode_s(self) -> float:
        """From the first token to the end."""
        return self.ended - self.first_token
