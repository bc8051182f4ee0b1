"""Turns: what sequences emitted, and what they want drafted, laid out for one call for all of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drafter.drafting.session import Session
from drafter.drafting.successors import Rows, as_rows
from drafter.kernels import turn as kernels
from drafter.kernels.mixing import SUCCESSOR_RANKS
from drafter.trie.token_run import MAX_TOKEN_ID, TokenIds, TokenRun, as_run


@dataclass(slots=True)
class Turn:
    """What one sequence emitted since its last turn, and how many nodes it wants next."""

    sequence_id: int
    token_ids: TokenIds = ()
    num_verified: int | None = None  # leading nodes of the last draft; None means all
    successors: Rows = ()  # the model's best next tokens, where each token was chosen
    max_nodes: int = 0


@dataclass(frozen=True, slots=True)
class Emitted:
    """Some sequences' emitted tokens, checked: what `observe_all` reads beside their arrays."""

    sessions: list[Session]
    token_ids: TokenRun  # one sequence's behind the other's
    following: NDArray[np.int32]  # rows of those whose successors are known
    asked: list[list[int]]  # by sequence, the last fields of its row of the table

    def reserve(self) -> None:
        """Make room wherever the kernel writes."""
        for session, (count, first_row, _, _) in zip(self.sessions, self.asked, strict=True):
            session.local.reserve(count)
            if first_row != kernels.NONE:
                session.memory.successors.reserve(count)
            if session.record.is_unjudged:
                session.memory.calibration.reserve()

    def table(self) -> NDArray[np.int64]:
        """Return the rows of the table; true until an array grows."""
        fields = [
            field
            for session, asked in zip(self.sessions, self.asked, strict=True)
            for field in (*session.addresses(), *asked)
        ]
        return np.array(fields, np.int64)


def checked(turns: Sequence[Turn], sessions: Sequence[Session]) -> Emitted:
    """Lay out the turns that emitted something; ValueError where one of them is wrong."""
    token_ids: list[int] = []
    following: list[NDArray[np.int32]] = []
    asked = []
    for turn, session in zip(turns, sessions, strict=True):
        count, drafted = len(turn.token_ids), session.record.num_nodes
        verified = drafted if turn.num_verified is None else turn.num_verified
        if not 0 <= verified <= drafted:
            raise ValueError(f"num_verified: {verified} of the last {drafted} nodes")
        rows, first_row = _rows(turn, count), kernels.NONE
        if rows is not None:
            first_row = sum(map(len, following)) * SUCCESSOR_RANKS
            following.append(rows)
        token_ids += turn.token_ids if isinstance(turn.token_ids, list) else list(turn.token_ids)
        asked.append([count, first_row, verified, 0])
    joined = np.concatenate(following).ravel() if following else np.empty(0, np.int32)
    if len(joined) and (joined.min() < -1 or joined.max() > MAX_TOKEN_ID):
        raise ValueError(f"successors: {joined.min()} to {joined.max()} are not token ids")
    return Emitted(list(sessions), as_run("token_ids", token_ids), joined, asked)


def _rows(turn: Turn, count: int) -> NDArray[np.int32] | None:
    """The turn's successors, a full row for each token, -1 where unknown."""
    rows = turn.successors
    is_whole = isinstance(rows, np.ndarray) and rows.shape == (count, SUCCESSOR_RANKS)
    if is_whole and rows.dtype == np.int32:
        return rows if count else None
    return as_rows(rows, count)
