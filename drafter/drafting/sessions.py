"""Live sequences and what is remembered per space.

The loop of a sequence is open, then a turn after the other, then close, which learns the run.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drafter.drafting.calibration import Calibration
from drafter.drafting.draft import DraftTree
from drafter.drafting.session import Memory, Prepared, Session, prepare
from drafter.drafting.successors import Rows, as_rows
from drafter.drafting.turns import Drafted, Turn, TurnTaker
from drafter.kernels.record import MAX_NODES
from drafter.trie.token_run import TokenIds, as_run
from drafter.trie.trie import DEFAULT_MAX_BYTES, Trie
from rpc.contract import Learn

# Takes a finished run of a space, to be learned there now or later.
Sink = Callable[[str, NDArray[np.int32]], None]


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
    """Opens, feeds, drafts for and closes sequences; a bad argument raises and changes nothing.

    One thread may use sequences while another one changes what their spaces have learned.
    """

    def __init__(
        self,
        sink: Sink | None = None,
        *,
        max_namespace_bytes: int = DEFAULT_MAX_BYTES,
        prior: NDArray[np.float32] | None = None,
    ) -> None:
        """`prior` is the calibration that a new space begins with; None means the shipped one."""
        self.lock = threading.RLock()
        self._sink = sink or self.learn
        self._max_namespace_bytes = max_namespace_bytes
        self._sessions: dict[int, Session] = {}
        self._memories: dict[str, Memory] = {}
        self._taker = TurnTaker()
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
        with self.lock:
            memory = self.memory(space)
            memory.num_open += 1
            self._sessions[sequence_id] = Session(
                space=space,
                memory=memory,
                local=prepared.local,
                prompt_start=prepared.prompt_start,
                output_start=prepared.output_start,
                learn=learn,
            )

    def take_turns(self, turns: Sequence[Turn]) -> Drafted:
        """Take what was emitted in some sequences, then draft for those that want nodes."""
        with self.lock:
            drafted = self._taker.take(turns, [self._session(turn.sequence_id) for turn in turns])
        self._num_accepted += drafted.num_accepted
        self._num_verified += sum(turn.num_verified for turn in turns)
        self._num_emitted += sum(len(turn.token_ids) for turn in turns)
        self._num_proposed += sum(drafted.counts)
        return drafted

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
        num_drafted = self._session(sequence_id).record.num_nodes
        verified = num_drafted if num_verified is None else num_verified
        if not 0 <= verified <= num_drafted:
            raise ValueError(f"num_verified: {verified} of the last {num_drafted} nodes")
        run = as_run("token_ids", token_ids).tolist()
        self.take_turns([Turn(sequence_id, run, verified, as_rows(successors, len(run)))])

    def propose(self, sequence_id: int, max_nodes: int) -> DraftTree:
        """Draft what may follow the tokens observed so far, in at most `max_nodes` nodes."""
        if max_nodes < 0:
            raise ValueError(f"max_nodes: {max_nodes} is negative")
        wanted = min(max_nodes, MAX_NODES)
        return self.take_turns([Turn(sequence_id, max_nodes=wanted)]).tree(0)

    def close(self, sequence_id: int, *, num_taken_back: int = 0) -> None:
        """End a sequence and hand the run it leaves behind to the sink.

        `num_taken_back`: tokens observed last that are not to be learned.
        """
        session = self._end(sequence_id)
        run = session.finished_run(num_taken_back)
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
        with self.lock:
            self._memories.pop(space, None)
            for session in self._sessions.values():
                if session.space == space:
                    session.forget(self.memory(space))

    def memory(self, space: str) -> Memory:
        """Return what a space has learned, an empty memory where it is new."""
        with self.lock:
            memory = self._memories.get(space)
            if memory is None:
                trie = Trie(max_bytes=self._max_namespace_bytes, lock=self.lock)
                memory = self._memories[space] = Memory(trie, Calibration(self._prior))
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
        with self.lock:
            if space not in self._memories:
                raise KeyError(f"space: {space!r} is not loaded")
            if self.in_use(space):
                raise ValueError(f"space: {space!r} has open sequences")
            del self._memories[space]

    def stats(self) -> SessionStats:
        """Count what is held and what was done."""
        with self.lock:
            memories, sessions = list(self._memories.values()), list(self._sessions.values())
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
        with self.lock:
            del self._sessions[sequence_id]
            session.memory.num_open -= 1
        return session

    def _session(self, sequence_id: int) -> Session:
        session = self._sessions.get(sequence_id)
        if session is None:
            raise KeyError(f"sequence_id: {sequence_id} is not open")
        return session
