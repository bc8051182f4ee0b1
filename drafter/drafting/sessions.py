"""Live sequences and what is remembered per space; one thread owns all of it.

The loop of a sequence is open, then propose and observe in turns, then close, which learns the run.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from drafter.drafting.calibration import Calibration
from drafter.drafting.propose import DraftRecord, DraftTree, Proposer
from drafter.drafting.successors import Rows, Successors, as_rows
from drafter.kernels.dispatch import dispatch
from drafter.trie.token_run import TokenIds, TokenRun, as_run
from drafter.trie.trie import DEFAULT_MAX_BYTES, Trie
from rpc.contract import Learn

# A longer sequence forgets its own oldest tokens.
MAX_LOCAL_BYTES = 40 << 20
_ROOM = 256

# Takes a finished run of a space, to be learned there now or later.
Sink = Callable[[str, NDArray[np.int32]], None]


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
    calibration: Calibration  # the memory's, or its own where nothing may be learned
    record: DraftRecord = field(default_factory=DraftRecord)


@dataclass(frozen=True, slots=True)
class Prepared:
    """The tokens of a sequence to come, indexed; belongs to no DraftSessions yet."""

    local: Trie
    prompt_start: int
    output_start: int


@dataclass(frozen=True, slots=True)
class SessionStats:
    """Sizes now, and counts since the start."""

    num_sequences: int
    num_spaces: int
    num_tokens: int
    num_learned: int  # tokens ever, evicted ones included
    num_bytes: int
    num_local_bytes: int
    num_proposed: int
    num_verified: int
    num_accepted: int
    num_emitted: int


class DraftSessions:
    """Opens, feeds, drafts for and closes sequences; a bad argument raises and changes nothing."""

    def __init__(
        self,
        sink: Sink | None = None,
        *,
        max_namespace_bytes: int = DEFAULT_MAX_BYTES,
        prior: NDArray[np.float32] | None = None,
    ) -> None:
        """`prior` is the calibration that a new space begins with; None means the shipped one."""
        self._sink = sink or self.learn
        self._max_namespace_bytes = max_namespace_bytes
        self._sessions: dict[int, Session] = {}
        self._memories: dict[str, Memory] = {}
        self._proposer = Proposer()
        self._num_proposed = self._num_verified = self._num_accepted = self._num_emitted = 0
        self._prior = Calibration(prior).model.copy()
        Trie(max_bytes=max_namespace_bytes)

    def open(
        self,
        sequence_id: int,
        *,
        space: str,
        token_ids: TokenIds,
        learn: Learn = Learn.ALL,
        prediction: TokenIds = (),
        num_prompt: int | None = None,
    ) -> None:
        """Start a sequence from its prompt, or, reopened, its prompt and output so far.

        `num_prompt` says how many of the tokens are prompt where not all are.
        """
        prepared = prepare(token_ids, prediction=prediction, num_prompt=num_prompt)
        self.adopt(sequence_id, prepared, space=space, learn=learn)

    def adopt(
        self, sequence_id: int, prepared: Prepared, *, space: str, learn: Learn = Learn.ALL
    ) -> None:
        """Start a sequence from what `prepare` made of it."""
        if sequence_id in self._sessions:
            raise ValueError(f"sequence_id: {sequence_id} is already open")
        memory = self.memory(space)
        memory.num_open += 1
        self._sessions[sequence_id] = Session(
            space=space,
            memory=memory,
            local=prepared.local,
            prompt_start=prepared.prompt_start,
            output_start=prepared.output_start,
            learn=learn,
            calibration=_calibration(memory, learn),
        )

    def observe(
        self,
        sequence_id: int,
        token_ids: TokenIds,
        *,
        num_verified: int | None = None,
        successors: Rows = (),
    ) -> None:
        """Take the tokens emitted since the last call, and learn from them how true the draft was.

        `num_verified` leading nodes of the last draft went through the model; None means all.
        """
        session = self._session(sequence_id)
        run = as_run("token_ids", token_ids)
        record = session.record
        verified = record.num_nodes if num_verified is None else num_verified
        if not 0 <= verified <= record.num_nodes:
            raise ValueError(f"num_verified: {verified} of the last {record.num_nodes} nodes")
        rows = as_rows(successors, len(run))
        session.local.reserve(len(run))
        arena, memory = session.local.arena, session.memory
        if rows is not None and session.learn is not Learn.NONE:
            memory.successors.reserve(len(run))
            dispatch.keep_successors(arena, memory.successors.table, run, rows.ravel(), len(run))
        if record.is_unjudged:
            session.calibration.reserve()
        self._num_accepted += dispatch.observe(
            arena, session.calibration.model, record.ints, record.rows, run, len(run), verified
        )
        self._num_verified += verified
        self._num_emitted += len(run)
        record.num_nodes, record.is_unjudged = 0, False

    def propose(self, sequence_id: int, max_nodes: int) -> DraftTree:
        """Draft what may follow the tokens observed so far, in at most `max_nodes` nodes."""
        session = self._session(sequence_id)
        if max_nodes < 0:
            raise ValueError(f"max_nodes: {max_nodes} is negative")
        memory = session.memory
        tree = self._proposer.propose(
            session.record,
            local=session.local.arena,
            shared=memory.trie.arena,
            successors=memory.successors.table,
            model=session.calibration.model,
            max_nodes=max_nodes,
        )
        self._num_proposed += len(tree.token_ids)
        return tree

    def close(self, sequence_id: int) -> None:
        """End a sequence and hand the run it leaves behind to the sink."""
        session = self._end(sequence_id)
        run = _finished_run(session)
        if len(run):
            self._sink(session.space, run)

    def drop(self, sequence_id: int) -> None:
        """End a sequence that goes on elsewhere: it leaves nothing behind here."""
        self._end(sequence_id)

    def learn(self, space: str, token_ids: TokenIds) -> None:
        """Learn a finished run: every context in it can be matched from now on."""
        self.memory(space).trie.learn(as_run("token_ids", token_ids))

    def forget(self, space: str) -> None:
        """Forget all of a space; what its open sequences have said so far is not learned."""
        self._memories.pop(space, None)
        for session in self._sessions.values():
            if session.space == space:
                session.memory = self.memory(space)
                session.memory.num_open += 1
                session.learn = Learn.NONE
                session.calibration = _calibration(session.memory, session.learn)

    def memory(self, space: str) -> Memory:
        """Return what a space has learned, an empty memory where it is new."""
        memory = self._memories.get(space)
        if memory is None:
            memory = Memory(Trie(max_bytes=self._max_namespace_bytes), Calibration(self._prior))
            self._memories[space] = memory
        return memory

    def trie(self, space: str) -> Trie:
        """Return the trie of a space, an empty one where it is new."""
        return self.memory(space).trie

    def num_bytes(self, space: str) -> int:
        """Memory of what a space has learned; 0 where nothing is held of it."""
        memory = self._memories.get(space)
        return memory.num_bytes if memory else 0

    def in_use(self, space: str) -> bool:
        """Tell whether sequences of a space are open."""
        memory = self._memories.get(space)
        return memory is not None and memory.num_open > 0

    def unload(self, space: str) -> None:
        """Take an idle space out of memory; ValueError while sequences of it are open."""
        if space not in self._memories:
            raise KeyError(f"space: {space!r} is not loaded")
        if self.in_use(space):
            raise ValueError(f"space: {space!r} has open sequences")
        del self._memories[space]

    def stats(self) -> SessionStats:
        """Count what is held and what was done."""
        memories, sessions = self._memories.values(), self._sessions.values()
        return SessionStats(
            num_sequences=len(sessions),
            num_spaces=len(memories),
            num_tokens=sum(memory.trie.num_tokens for memory in memories),
            num_learned=sum(memory.trie.num_learned for memory in memories),
            num_bytes=sum(memory.num_bytes for memory in memories),
            num_local_bytes=sum(session.local.num_bytes for session in sessions),
            num_proposed=self._num_proposed,
            num_verified=self._num_verified,
            num_accepted=self._num_accepted,
            num_emitted=self._num_emitted,
        )

    def check(self) -> None:
        """Walk the invariants of everything held."""
        for space, memory in self._memories.items():
            memory.trie.check()
            memory.calibration.check()
            num_open = sum(session.space == space for session in self._sessions.values())
            assert memory.num_open == num_open, f"{space}: {memory.num_open} sequences"
        for session in self._sessions.values():
            session.local.check()

    def _end(self, sequence_id: int) -> Session:
        session = self._session(sequence_id)
        del self._sessions[sequence_id]
        session.memory.num_open -= 1
        return session

    def _session(self, sequence_id: int) -> Session:
        session = self._sessions.get(sequence_id)
        if session is None:
            raise KeyError(f"sequence_id: {sequence_id} is not open")
        return session


def _calibration(memory: Memory, learn: Learn) -> Calibration:
    """What a sequence's drafts are judged in: a copy where the memory must not change by it."""
    return Calibration(memory.calibration.model) if learn is Learn.NONE else memory.calibration


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


def _finished_run(session: Session) -> TokenRun:
    """Return what the sequence leaves behind: as much of it as its trie still holds."""
    if session.learn is Learn.NONE:
        return np.empty(0, np.int32)
    first = session.prompt_start if session.learn is Learn.ALL else session.output_start
    local = session.local
    evicted = local.num_learned - local.num_tokens
    return local.live_tokens(max(0, first - evicted))
