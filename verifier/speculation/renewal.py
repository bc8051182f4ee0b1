"""When a chain's checkpoint is worth a pass without a draft.

Tokens accepted since the checkpoint are run again in every pass, until a pass turns out right as a
whole. A pass without a draft always does, but brings one token only. As with a pair of skis that
may be rented or bought: what pending rows have cost since the last checkpoint decides. Once that is
as much as a renewal costs, the checkpoint is renewed.
"""

from verifier.speculation.budget import StepCurve

MAX_PENDING = 64  # tokens, whatever the curve says


class Renewals:
    """What the pending rows of each sequence have cost since its last checkpoint."""

    def __init__(self, curve: StepCurve) -> None:
        self._curve = curve
        self._spent_s: dict[int, float] = {}

    def is_due(self, sequence_id: int, num_pending: int, num_nodes: int, expected: float) -> bool:
        """Whether to renew instead of verifying nodes of which `expected` are right.

        A pass that verifies them is on the account from now on.
        """
        if not num_pending:
            self._spent_s.pop(sequence_id, None)
            return False
        chain_s = self._curve.at(1 + num_nodes)
        pending_s = self._curve.at(1 + num_pending + num_nodes) - chain_s
        spent_s = self._spent_s.get(sequence_id, 0.0) + pending_s
        # A pass without a draft, less the time of its one token in passes without pending rows.
        renewal_s = self._curve.at(1 + num_pending) - chain_s / (1 + expected)
        if num_pending > MAX_PENDING or spent_s > renewal_s:
            return True
        self._spent_s[sequence_id] = spent_s
        return False

    def forget(self, sequence_id: int) -> None:
        """Let go of a sequence that has ended."""
        self._spent_s.pop(sequence_id, None)
