"""Stand-ins for what a benchmark does not look at: what is said, text, and whether drafts pay."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from verifier.engine.engine import Engine
from verifier.engine.events import Completion, TokenRun
from verifier.engine.sequence import Sequence as Running
from verifier.model.batch import Segment
from verifier.request import Request
from verifier.speculation.controller import Controller

FAVOURED = 1e4  # a logit that no model gives


class Forced:
    """An engine whose model says what was recorded: it computes its logits, which then favour that.

    `with` this around whatever is answered.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._model: Any = engine.model
        self._forward = self._model.forward
        self._answers: dict[tuple[int, ...], Sequence[int]] = {}  # by prompt

    def __enter__(self) -> "Forced":
        self._model.forward = self._favouring
        return self

    def __exit__(self, *error: object) -> None:
        self._model.forward = self._forward

    def know(self, prompt: Sequence[int], answer: Sequence[int]) -> None:
        """Let the model answer a prompt so."""
        self._answers[tuple(prompt)] = answer

    def submit(self, request: Request, answer: Sequence[int]) -> Running:
        """Queue a request whose answer is known."""
        self.know(request.prompt_token_ids, answer)
        return self._engine.submit(request)

    async def answer(self, request: Request, output: Sequence[int]) -> Completion:
        """Run a request to the end of its answer; RuntimeError where it says another one."""
        said: list[int] = []
        async for event in self.submit(request, output).stream():
            if isinstance(event, TokenRun):
                said += event.token_ids
            elif isinstance(event, Completion) and said == list(output):
                return event
        raise RuntimeError(
            f"{len(said)} tokens were said, which are not the {len(output)} recorded"
        )

    def _favouring(self, segments: list[Segment], *others: Any, **options: Any) -> Tensor:
        # A copy: what else the pass has found of its own logits no longer holds.
        logits: Tensor = self._forward(segments, *others, **options).clone()
        running = {sequence.slot: sequence for sequence in self._engine.running}
        rows, ids, start = [], [], 0
        for segment in segments:
            if segment.slot in running:
                for row, token_id in self._known(segment, running[segment.slot]):
                    rows.append(start + row)
                    ids.append(token_id)
            start += segment.num_logit_rows
        logits[rows, ids] = FAVOURED
        return logits

    def _known(self, segment: Segment, sequence: Running) -> Iterator[tuple[int, int]]:
        """What was recorded after each of a segment's rows of logits."""
        answer = self._answers.get(sequence.request.prompt_token_ids, ())
        count = segment.num_logit_rows
        depths = list(range(count))
        if segment.tree is not None:
            for node, parent in enumerate(segment.tree.parents):
                depths[node + 1] = depths[parent + 1] + 1
        first = segment.kv_span - count + 1 - sequence.num_prompt
        for row, depth in enumerate(depths):
            if 0 <= first + depth < len(answer):
                yield row, answer[first + depth]


class NoText:
    """Where ids are compared or times taken, and no text is wanted."""

    def detokenizer(self, *, special_tokens: bool) -> "NoText":
        """Make one for a sequence."""
        return self

    def push(self, token_id: int) -> str:
        """Nothing."""
        return ""

    pending = flush = lambda self: ""


class AlwaysOn(Controller):
    """Drafts whether they pay or not: words are compared here, not times."""

    allows_drafts = True

    def record(self, **step: Any) -> None:
        """Draw no conclusion."""

    def record_saved(self, num_steps: float) -> None:
        """Nor from steps beside prompts."""
