"""One live sequence: its own tokens, its last draft, and what its space has learned."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drafter.drafting.calibration import Calibration
from drafter.drafting.draft import DraftRecord
from drafter.drafting.successors import Successors
from drafter.trie.token_run import TokenIds, TokenRun, as_run
from drafter.trie.trie import Trie
from rpc.contract import Learn

# A longer sequence forgets its own oldest tokens.
MAX_LOCAL_BYTES = 40 << 20
_ROOM = 256


class Addresses:
    """Where arrays begin and how long they are: kept, since it takes longer to ask than to look."""

    __slots__ = ("fields", "first", "last")

    def __init__(self, *arrays: NDArray[Any]) -> None:
        self.first, self.last = arrays[0], arrays[-1]
        self.fields = [number for array in arrays for number in (array.ctypes.data, len(array))]


@dataclass(slots=True)
class Memory:
    """What one space has learned."""

    trie: Trie
    calibration: Calibration
    successors: Successors = field(default_factory=Successors)
    num_open: int = 0  # sequences

    @property
    def num_bytes(self) -> int:
        return self.trie.num_bytes + self.calibration.num_bytes + self.successors.num_bytes


@dataclass(slots=True)
class Session:
    """One live sequence: its own trie, and its last draft until the model has judged it."""

    space: str
    memory: Memory
    local: Trie
    # Where prompt and output begin, counted in tokens ever appended to the local trie.
    prompt_start: int
    output_start: int
    learn: Learn
    record: DraftRecord = field(default_factory=DraftRecord)
    calibration: Calibration = field(init=False)  # the memory's, or its own: see `learns`
    _known: "Addresses | None" = None

    def __post_init__(self) -> None:
        shared = self.memory.calibration
        self.calibration = shared if self.learns else Calibration(shared.model)

    @property
    def learns(self) -> bool:
        """Whether the memory may change by it, be it only in how far drafts are trusted."""
        return self.learn is not Learn.NONE

    def forget(self, memory: Memory) -> None:
        """Go on with an empty memory, which learns nothing from what was said so far."""
        self.memory, self.learn = memory, Learn.NONE
        memory.num_open += 1
        self.calibration = Calibration(memory.calibration.model)

    def reserve(self, num_tokens: int, *, has_successors: bool) -> None:
        """Make room wherever a turn of so many tokens writes."""
        self.local.reserve(num_tokens)
        if has_successors:
            self.memory.successors.reserve(num_tokens)
        if self.record.is_unjudged:
            self.calibration.reserve()

    def addresses(self) -> list[int]:
        """Return where its own arrays are, as a kernel's row has them; true until one grows."""
        known, record = self._known, self.record
        if known is None or known.first is not self.local.arena or known.last is not record.rows:
            self._known = known = Addresses(self.local.arena, record.ints, record.rows)
        return known.fields

    def shared_addresses(self) -> list[int]:
        """Return where that is which others draft from, too, in the same way."""
        memory = self.memory
        arrays = (memory.trie.arena, memory.successors.table, self.calibration.model)
        return Addresses(*arrays).fields

    def finished_run(self, num_taken_back: int = 0) -> TokenRun:
        """Return what the sequence leaves behind: as much of it as its trie still holds.

        `num_taken_back`: last tokens that are not to be learned.
        """
        if not self.learns:
            return np.empty(0, np.int32)
        first = self.prompt_start if self.learn is Learn.ALL else self.output_start
        evicted = self.local.num_learned - self.local.num_tokens
        run = self.local.live_tokens(max(0, first - evicted))
        return run[: max(0, len(run) - num_taken_back)]


@dataclass(frozen=True, slots=True)
class Prepared:
    """The tokens of a sequence to come, indexed; belongs to no DraftSessions yet."""

    local: Trie
    prompt_start: int
    output_start: int


def prepare(
    token_ids: TokenIds, *, prediction: TokenIds = (), num_prompt: int | None = None
) -> Prepared:
    """Index the tokens of a sequence for `adopt`; safe in any thread, which long prompts need."""
    run, expected = as_run("token_ids", token_ids), as_run("prediction", prediction)
    if num_prompt is not None and not 0 <= num_prompt <= len(run):
        raise ValueError(f"num_prompt: {num_prompt} of {len(run)} tokens")
    local = Trie(max_bytes=MAX_LOCAL_BYTES, capacity=len(run) + len(expected) + _ROOM)
    local.append(expected)
    local.end_run()
    start = local.num_learned
    local.append(run)
    return Prepared(local, start, start + (len(run) if num_prompt is None else num_prompt))
