"""The ways to run the same requests, and what differs between one way and plain decoding alone."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.exactness.requests import drafted, in_namespace, sharing
from bench.exactness.runs import Said, collect
from verifier.engine.engine import Engine
from verifier.request import Request


@dataclass(frozen=True, slots=True)
class Way:
    """How requests run; the defaults are plain decoding, alone, from an empty cache."""

    name: str
    num_streams: int = 1
    is_drafted: bool = False
    prefill_rows: int = 0  # 0: as the device likes
    reuses_rows: bool = False  # which the same request, drafted, left behind


WAYS = (
    Way("drafted", is_drafted=True),
    Way("batch of 8", num_streams=8),
    Way("drafted, batch of 8", num_streams=8, is_drafted=True),
    Way("rows reused", reuses_rows=True),
    Way("other chunks, batch of 8", num_streams=8, prefill_rows=17),
)


@dataclass(slots=True)
class Finding:
    """One model run one way: tokens that were compared with plain decoding, and that differ."""

    model: str
    dtype: str
    way: str
    num_compared: int = 0
    num_different: int = 0
    num_accepted: int = 0
    num_reused: int = 0
    num_answers: int = 0
    num_other_words: int = 0  # answers whose words differ, not only bits of log probabilities
    is_bitwise: bool = True  # as the check at load says

    def count(self, wanted: Said, got: Said) -> None:
        """Compare one output."""
        self.num_compared += len(wanted.token_ids)
        self.num_different += wanted.num_different(got)
        self.num_answers += 1
        self.num_other_words += wanted.token_ids != got.token_ids
        self.num_accepted += got.num_accepted
        self.num_reused += got.num_reused


async def plain_answers(engine: Engine, requests: Sequence[Request]) -> list[Said]:
    """What plain decoding says, one request after the other, none with rows of another."""
    return [await collect(engine, in_namespace(r, f"plain-{r.request_id}")) for r in requests]


async def compare(
    engine: Engine,
    finding: Finding,
    way: Way,
    requests: Sequence[Request],
    answers: Sequence[Said],
    rng: random.Random,
) -> None:
    """Run the requests this way and count what is not as it was answered plainly."""
    turns = asyncio.Semaphore(way.num_streams)

    async def one(request: Request, answer: Said) -> None:
        request = in_namespace(request, f"{rng.getrandbits(64)}")
        other = drafted(request, answer.token_ids, rng)
        async with turns:
            if way.reuses_rows:
                await collect(engine, other)
                request, answer = continued(sharing(request), answer)
            finding.count(answer, await collect(engine, other if way.is_drafted else request))

    await asyncio.gather(*(one(*pair) for pair in zip(requests, answers, strict=True)))


def continued(request: Request, answer: Said) -> tuple[Request, Said]:
    """The request with half of its answer in the prompt, and the rest of the answer.

    As it is where the rest depends on more than the words before it.
    """
    if not request.sampling.is_greedy or request.sampling.has_processors or request.grammar:
        return request, answer
    half = len(answer.token_ids) // 2
    prompt = (*request.prompt_token_ids, *answer.token_ids[:half])
    stopping = replace(request.stopping, max_tokens=request.stopping.max_tokens - half)
    return replace(request, prompt_token_ids=prompt, stopping=stopping), answer.after(half)
