"""The one emit path: every token, plain or drafted, passes through `Output.push`.

It looks for ending ids, then for stop strings in the text, then at the length cap. Text that may
be the beginning of a stop string is held back until it is certain.
"""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from verifier.text.detokenizer import Detokenizer


class FinishReason(enum.Enum):
    """Why a stream ended."""

    STOP = 1
    LENGTH = 2
    SHUTDOWN = 3


@dataclass(frozen=True, slots=True)
class StoppingParams:
    """When to stop. `eos_token_ids` is empty where they are ignored."""

    max_tokens: int
    min_tokens: int = 0
    stop_strings: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    eos_token_ids: frozenset[int] = frozenset()
    include_stop_string: bool = False
    # Stop strings that are hidden special tokens, which no text shows, by their ids.
    stop_tokens: Mapping[int, str] = field(default_factory=dict)

    @property
    def ending_ids(self) -> frozenset[int]:
        """Ids that end the output when emitted."""
        return self.stop_token_ids | self.eos_token_ids

    def end_in(self, token_ids: Sequence[int], num_before: int) -> int | None:
        """After how many of these tokens ids or length end an output; None where they do not.

        `num_before`: how many it has emitted. A stop string may end it earlier.
        """
        for count, token_id in enumerate(token_ids, 1):
            total = num_before + count
            is_stop = token_id in self.stop_tokens and total >= self.min_tokens
            is_ending = token_id in self.stop_token_ids or token_id in self.eos_token_ids
            if is_stop or is_ending or total >= self.max_tokens:
                return count
        return None if self.max_tokens else 0


@dataclass(frozen=True, slots=True)
class Finish:
    """Why the output ended, and what ended it."""

    reason: FinishReason
    stop_string: str = ""
    stop_token_id: int | None = None


class Output:
    """The output of one sequence: certain text and held-back text; its ids belong to the sequence.

    An ending id is kept among the ids and shows no text. A stop string cuts the text before it
    (after it with `include_stop_string`); the ids up to the token that completed it are kept. Of
    stop strings completed by one token the one that begins earliest wins, then the longest.
    """

    def __init__(self, detokenizer: Detokenizer, params: StoppingParams) -> None:
        self.num_tokens = 0
        self._detokenizer = detokenizer
        self._params = params
        self._certain = ""  # text ready to be taken
        self._held = ""  # may become a stop string
        self._drafted_len = 0  # leading characters of `_certain` that drafted tokens released
        self._only_drafted = True
        self._is_cut = False  # a stop string ended the text; nothing follows it

    def push(self, token_id: int, *, is_drafted: bool) -> Finish | None:
        """Emit one token; return why it ended the output, if it did."""
        self.num_tokens += 1
        if token_id in self._params.ending_ids:
            return Finish(FinishReason.STOP, stop_token_id=token_id)
        stop_token = self._params.stop_tokens.get(token_id)
        if stop_token is not None and self.num_tokens >= self._params.min_tokens:
            return self._end_at(stop_token, is_drafted)
        delta = self._detokenizer.push(token_id)
        finish = self._finish_by_text(delta, is_drafted)
        return finish or self._finish_by_length()

    def take_text(self) -> tuple[str, int]:
        """Text that became certain since the last call, and how much of its head was drafted."""
        text, drafted_len = self._certain, self._drafted_len
        self._certain, self._drafted_len, self._only_drafted = "", 0, True
        return text, drafted_len

    def flush(self) -> str:
        """The rest of the text, at the end: what was held back and a truncated character."""
        tail = self._certain
        if not self._is_cut:
            tail += self._held + self._detokenizer.flush()
        self._certain = self._held = ""
        return tail

    def _finish_by_text(self, delta: str, is_drafted: bool) -> Finish | None:
        stop_strings = self._params.stop_strings
        if not stop_strings:
            self._release(delta, is_drafted)
            return None
        text = self._held + delta
        # Below min_tokens nothing may end the output, and text passed by then is past.
        if self.num_tokens >= self._params.min_tokens:
            # Bytes that are whole characters by now count, though more bytes may follow.
            pending = text + self._detokenizer.pending()
            stop = first_stop(pending, stop_strings, past_len=len(self._held))
            if stop is not None:
                return self._cut(pending, stop, is_drafted)
        certain_len = len(text) - longest_possible_stop(text, stop_strings)
        self._held = text[certain_len:]
        self._release(text[:certain_len], is_drafted)
        return None

    def _cut(self, text: str, stop: "Stop", is_drafted: bool) -> Finish:
        end = stop.end if self._params.include_stop_string else stop.start
        self._held, self._is_cut = "", True
        self._release(text[:end], is_drafted)
        return Finish(FinishReason.STOP, stop_string=text[stop.start : stop.end])

    def _end_at(self, stop_token: str, is_drafted: bool) -> Finish:
        text = self._held + self._detokenizer.flush()
        self._held, self._is_cut = "", True
        self._release(text + stop_token * self._params.include_stop_string, is_drafted)
        return Finish(FinishReason.STOP, stop_string=stop_token)

    def _finish_by_length(self) -> Finish | None:
        is_full = self.num_tokens >= self._params.max_tokens
        return Finish(FinishReason.LENGTH) if is_full else None

    def _release(self, text: str, is_drafted: bool) -> None:
        self._certain += text
        self._only_drafted = self._only_drafted and is_drafted
        if self._only_drafted:
            self._drafted_len += len(text)


@dataclass(frozen=True, slots=True)
class Stop:
    """Where a stop string stands."""

    start: int
    end: int


def first_stop(text: str, stop_strings: tuple[str, ...], *, past_len: int) -> Stop | None:
    """The earliest stop string that ends after `past_len`; of those that begin together, the
    longest."""
    found = []
    for stop_string in stop_strings:
        start = text.find(stop_string, max(0, past_len - len(stop_string) + 1))
        if start >= 0:
            found.append(Stop(start, start + len(stop_string)))
    return min(found, key=lambda stop: (stop.start, -stop.end), default=None)


def longest_possible_stop(text: str, stop_strings: tuple[str, ...]) -> int:
    """Length of the longest end of the text that begins a stop string."""
    lengths = (
        size
        for s in stop_strings
        for size in range(min(len(s) - 1, len(text)), 0, -1)
        if text.endswith(s[:size])
    )
    return max(lengths, default=0)
