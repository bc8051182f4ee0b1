"""Stand-ins for what a benchmark does not look at: choices that are known beforehand, and text."""

from collections.abc import Sequence
from typing import Any

from verifier.engine.engine import Engine
from verifier.engine.events import Completion, TokenRun
from verifier.request import Request


class ForcedSampler:
    """Chooses what was recorded: the model computes all of it, and is not listened to."""

    grammar_state = None

    def __init__(self, token_ids: Sequence[int]) -> None:
        self._left = iter(token_ids)

    def choose(self, logits: Any, *, best: Any = None) -> int:
        """The next recorded token."""
        return next(self._left)

    def push(self, token_id: int) -> None:
        """It is known already."""


class NoText:
    """Where ids are compared or times taken, and no text is wanted."""

    def detokenizer(self, *, special_tokens: bool) -> "NoText":
        """Make one for a sequence."""
        return self

    def push(self, token_id: int) -> str:
        """Nothing."""
        return ""

    pending = flush = lambda self: ""


async def forced(engine: Engine, request: Request, output: Sequence[int]) -> Completion:
    """Run a request to the end of its recorded output; RuntimeError where it says another one."""
    sequence = engine.submit(request)
    sequence.sampler = ForcedSampler(output)  # type: ignore[assignment]
    said: list[int] = []
    async for event in sequence.stream():
        if isinstance(event, TokenRun):
            said += event.token_ids
        elif isinstance(event, Completion) and said == list(output):
            return event
    raise RuntimeError(f"{len(said)} tokens were said, which are not the {len(output)} recorded")
