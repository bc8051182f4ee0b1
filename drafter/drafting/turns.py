"""Turns: what sequences emitted, and what they want drafted, in one call of a kernel for all."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from drafter.drafting.calibration import Calibration
from drafter.drafting.draft import MIN_SPACE, DraftTree
from drafter.drafting.session import Session
from drafter.kernels import record as layout
from drafter.kernels import turn as kernels
from drafter.kernels.dispatch import dispatch
from drafter.kernels.mixing import SUCCESSOR_RANKS

_NOTHING = np.empty(0, np.int32)


@dataclass(slots=True)  # not frozen, which would take four times as long to make
class Turn:
    """What one sequence emitted since its last turn, and how many nodes it wants next.

    Its numbers are taken as they are: whoever lets them in has checked them.
    """

    sequence_id: int
    token_ids: Sequence[int] = ()
    num_verified: int = 0  # leading nodes of the last draft
    successors: NDArray[np.int32] | None = None  # [tokens, SUCCESSOR_RANKS], -1 where unknown
    max_nodes: int = 0


@dataclass(slots=True)
class Drafted:
    """The trees of some turns, in their order."""

    nodes: NDArray[np.int32]  # [turns, (token ids, parents, sources), nodes]
    chances: NDArray[np.float32]  # [turns, nodes]
    counts: list[int]  # nodes of each turn
    num_accepted: int  # verified nodes of the drafts before that were right

    def tree(self, index: int) -> DraftTree:
        """Return one of the trees."""
        count = self.counts[index]
        token_ids, parents, sources = self.nodes[index, :, :count]
        return DraftTree(token_ids, parents, self.chances[index, :count], sources)


class TurnTaker:
    """Takes turns, in scratch memory that all sequences share."""

    def __init__(self) -> None:
        self._make(MIN_SPACE)

    def take(self, turns: Sequence[Turn], sessions: Sequence[Session]) -> Drafted:
        """Take all that was emitted, then draft for those that want nodes."""
        both = list(zip(turns, sessions, strict=True))
        growing = [(t, s) for t, s in both if t.max_nodes > s.record.max_nodes]
        num_accepted = 0
        if any(turn.token_ids for turn, _ in growing):
            # A record that makes room forgets the draft that these tokens judge.
            num_accepted = self.take(
                [replace(t, max_nodes=0) for t in turns], sessions
            ).num_accepted
            turns = [Turn(turn.sequence_id, max_nodes=turn.max_nodes) for turn in turns]
        for turn, session in growing:
            session.record.grow(turn.max_nodes)
        drafted = self._call(turns, sessions)
        drafted.num_accepted += num_accepted
        for turn, session, count in zip(turns, sessions, drafted.counts, strict=True):
            judged, is_drafted = bool(turn.token_ids), turn.max_nodes > 0
            session.record.note(judged=judged, drafted=is_drafted, num_nodes=count)
        return drafted

    def _call(self, turns: Sequence[Turn], sessions: Sequence[Session]) -> Drafted:
        space = max((turn.max_nodes for turn in turns), default=0)
        if space > self._max_nodes:
            self._make(space)
        table, token_ids, following = _laid_out(turns, sessions)
        nodes = np.empty(3 * len(turns) * space, np.int32)
        chances = np.empty(len(turns) * space, np.float32)
        num_accepted = dispatch.take_turns(
            table, token_ids, following, nodes, chances, self._scratch, self._chances
        )
        return Drafted(
            nodes.reshape(len(turns), 3, space),
            chances.reshape(len(turns), space),
            table[kernels.MAX_NODES :: kernels.ROW_LEN].tolist(),
            int(num_accepted),
        )

    def _make(self, max_nodes: int) -> None:
        self._max_nodes = max_nodes
        self._scratch = layout.new_scratch(max_nodes)
        self._chances = layout.new_chances(max_nodes)


def _laid_out(
    turns: Sequence[Turn], sessions: Sequence[Session]
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
    """The kernel's table, all tokens, and all rows of successors."""
    token_ids: list[int] = []
    following: list[NDArray[np.int32]] = []
    asked: list[tuple[int, int, int, int]] = []
    next_row = 0
    for turn, session in zip(turns, sessions, strict=True):
        count, first_row = len(turn.token_ids), kernels.NONE
        if count:
            rows = turn.successors
            if rows is not None and rows.shape != (count, SUCCESSOR_RANKS):
                raise ValueError(f"successors: {rows.shape} is not {count} full rows")
            if not session.learns:
                rows = None
            session.reserve(count, has_successors=rows is not None)
            token_ids += turn.token_ids
            if rows is not None:
                first_row = next_row
                next_row += rows.size
                following.append(rows)
        num_verified = min(turn.num_verified, session.record.num_nodes)
        asked.append((count, first_row, num_verified, turn.max_nodes))
    all_rows = np.concatenate(following).ravel() if following else _NOTHING
    return _table(sessions, asked), np.array(token_ids, np.int32), all_rows


def _table(
    sessions: Sequence[Session], asked: Sequence[tuple[int, int, int, int]]
) -> NDArray[np.int64]:
    """Where everybody's arrays are by now, those that sequences share included."""
    fields: list[int] = []
    calibration: Calibration | None = None
    shared: list[int] = []
    for session, last in zip(sessions, asked, strict=True):
        if session.calibration is not calibration:  # each memory has its own, too
            calibration = session.calibration
            shared = session.shared_addresses()
        fields += session.addresses()
        fields += shared
        fields += last
    return np.array(fields, np.int64)
