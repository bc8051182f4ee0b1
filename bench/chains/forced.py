"""Requests whose answers were recorded, and drafts for them from a source in this process."""

from bench.replay.sources import Ours
from bench.replay.traces import Request as Recorded
from bench.serving.forced import Forced
from verifier.engine.events import Completion
from verifier.request import Mode, Request, Speculation
from verifier.sampling.params import SamplingParams
from verifier.speculation.tree import DraftTree, checked_tree
from verifier.text.stopping import StoppingParams


class SourceDrafts:
    """The surface of DraftClient over a draft source in this process; one sequence at a time."""

    is_connected = True
    has_news = False
    num_replies = num_deadline_misses = num_invalid = 0

    def __init__(self, vocabulary_size: int) -> None:
        self._source = Ours()
        self._vocabulary_size = vocabulary_size
        self._tokens: list[int] = []
        self._num_told = 0
        self._open = 0  # the sequence that drafts, if one does
        self._tree = checked_tree([], [], [], vocabulary_size=vocabulary_size, max_nodes=0)

    def start(self, wake: object = None) -> None:
        """Nothing to connect."""

    async def stop(self) -> None:
        """Nothing to close."""

    def open(self, sequence_id: int, token_ids: list[int], num_prompt: int, *_: object) -> None:
        """Read the prompt."""
        self._open = sequence_id
        self._tokens, self._num_told = token_ids, num_prompt
        self._source.open(token_ids[:num_prompt])

    def close(self, sequence_id: int, *, learn: bool) -> None:
        """Learn from the answer."""
        if sequence_id == self._open:
            self._source.close()
            self._open = 0

    def tree(self, sequence_id: int) -> DraftTree:
        """What was proposed after the last step."""
        return self._tree

    def observe(self, sequence_id: int, *, num_verified: int, successors: object) -> None:
        """Tell what was emitted."""
        if sequence_id != self._open:
            return
        self._source.observe(self._tokens[self._num_told :], num_verified)
        self._num_told = len(self._tokens)

    def request(self, wanted: dict[int, int]) -> None:
        """Propose at once."""
        for max_nodes in wanted.values():
            draft = self._source.propose(max_nodes)
            assert draft.probabilities is not None
            self._tree = checked_tree(
                list(map(int, draft.token_ids)),
                list(map(int, draft.parents)),
                list(map(float, draft.probabilities)),
                vocabulary_size=self._vocabulary_size,
                max_nodes=max_nodes,
            )
        if not wanted:
            self._tree = checked_tree([], [], [], vocabulary_size=1, max_nodes=0)

    def wait(self, deadline_s: float) -> None:
        """Trees are always there."""


async def answer(forced: Forced, recorded: Recorded, mode: Mode) -> Completion:
    """Run one recorded request to the end of its answer."""
    request = Request(
        request_id=recorded.request_id,
        prompt_token_ids=tuple(recorded.prompt),
        sampling=SamplingParams(),
        stopping=StoppingParams(max_tokens=len(recorded.output)),
        speculation=Speculation(mode=mode, max_nodes=16, max_depth=16, namespace="bench"),
    )
    return await forced.answer(request, recorded.output)
