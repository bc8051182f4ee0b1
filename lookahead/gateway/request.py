"""What a request asks for, whichever of the public APIs it came by."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from protos import verifier_pb2 as pb

SEEDS = 1 << 64


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks."""

    request_id: str
    arrival: float  # monotonic
    namespace: str  # of the API key; empty: the server's default
    may_see_drafts: bool


@dataclass(frozen=True, slots=True)
class FieldName:
    """What a public API calls a field of the contract."""

    contract: re.Pattern[str]
    public: str  # may refer to groups of the pattern


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """The generations to start: `n` for each prompt."""

    model: str | None
    template: pb.GenerateRequest  # all but the prompt, the seed and the id
    prompts: tuple[pb.GenerateRequest, ...]
    n: int = 1
    seed: int | None = None
    stream: bool = False
    ignored: tuple[str, ...] = ()  # fields given that have no effect
    field_names: tuple[FieldName, ...] = field(default=(), repr=False)

    @property
    def is_chat(self) -> bool:
        """Whether it needs a chat template."""
        return self.prompts[0].WhichOneof("input") == "chat"

    @property
    def num_choices(self) -> int:
        """How many generations it asks for."""
        return len(self.prompts) * self.n

    @property
    def shows_drafts(self) -> bool:
        """Whether each event shows the draft tree of its step."""
        return self.template.output.draft_trees

    def calls(self, caller: Caller, seed: int) -> Iterator[pb.GenerateRequest]:
        """Yield the calls to make, with the seeds `seed`, `seed` + 1, … for each prompt."""
        count = 0
        for prompt in self.prompts:
            for i in range(self.n):
                call = pb.GenerateRequest()
                call.CopyFrom(self.template)
                call.MergeFrom(prompt)
                call.request_id = f"{caller.request_id}-{count}"
                call.account = caller.namespace
                call.sampling.seed = (seed + i) % SEEDS
                count += 1
                yield call
