"""Keeps the event loop free: long work pauses every few milliseconds, and others get their turn."""

import asyncio

# Roughly, in the time it takes to index one token: 0.1 us or so.
TOKENS_PER_TURN = 16_384
DRAFT_COST = 512
OPEN_COST = 1_024
DRAFTS_PER_CALL = TOKENS_PER_TURN // DRAFT_COST


class TurnBudget:
    """Counts the work of one call since it last let others run."""

    def __init__(self) -> None:
        self._spent = 0

    async def spend(self, num_tokens: int) -> None:
        """Note work as costly as so many tokens; pause where it adds up to a turn."""
        self._spent += num_tokens
        if self._spent >= TOKENS_PER_TURN:
            self._spent = 0
            await asyncio.sleep(0)
