"""The requests that are compared: greedy, sampled and constrained ones, plain and drafted."""

import random
from collections.abc import Sequence
from dataclasses import replace

from verifier.constraints.constraint import Constraint, Kind
from verifier.constraints.grammar import Grammar, Grammars
from verifier.request import Mode, Request, Speculation
from verifier.sampling.params import SamplingParams
from verifier.text.stopping import StoppingParams

PROMPT_LENS = (5, 24, 60, 100, 200)
SAMPLINGS = (
    SamplingParams(),
    SamplingParams(temperature=0.8, top_p=0.95),
    SamplingParams(temperature=1.0, top_k=40, min_p=0.02, repetition_penalty=1.2),
)
MODES = (Mode.TREE, Mode.TREE, Mode.CHAIN, Mode.AUTO)
NUM_TOP_LOGPROBS = 3  # more bits to compare
LINES = Constraint(Kind.REGEX, (r"([a-z ]{1,20}\n)+",))
EOS, FIRST_CHAR = 2, 3


def make_requests(
    rng: random.Random, count: int, num_tokens: int, vocabulary: int, grammar: Grammar
) -> list[Request]:
    """Plain requests of so many tokens; every fourth one is constrained."""
    return [
        Request(
            request_id=str(place),
            prompt_token_ids=tuple(
                rng.randrange(3, vocabulary) for _ in range(PROMPT_LENS[place % len(PROMPT_LENS)])
            ),
            sampling=replace(SAMPLINGS[place % len(SAMPLINGS)], seed=rng.randrange(1 << 32)),
            stopping=StoppingParams(max_tokens=num_tokens),
            speculation=Speculation(mode=Mode.OFF, max_nodes=63),
            logprobs=True,
            num_top_logprobs=NUM_TOP_LOGPROBS,
            grammar=None if place % 4 else grammar,
        )
        for place in range(count)
    ]


def drafted(request: Request, answer: Sequence[int], rng: random.Random) -> Request:
    """The request with drafts; the drafter is told the answer, a spoiled one, or nothing."""
    told = list(answer)
    match rng.randrange(3):
        case 0:
            told = []
        case 1:
            for _ in range(len(told) // 8):
                told[rng.randrange(len(told))] = rng.choice(told)
    mode = rng.choice(MODES)
    speculation = replace(request.speculation, mode=mode, prediction=tuple(told))
    return replace(request, speculation=speculation)


def sharing(request: Request) -> Request:
    """The plain request as one that may use rows of others; nothing is told to be drafted."""
    return replace(request, speculation=replace(request.speculation, mode=Mode.TREE))


def in_namespace(request: Request, name: str) -> Request:
    """The request where nobody else's rows are reused."""
    return replace(request, speculation=replace(request.speculation, namespace=name))


def ascii_grammars(vocabulary: int) -> Grammars:
    """Constraints for a model without a tokenizer: ids from FIRST_CHAR on are ASCII."""
    names = [b""] * FIRST_CHAR + [bytes([code]) for code in range(128)]
    return Grammars(
        names + [b""] * (vocabulary - len(names)),
        frozenset({EOS}),
        special_ids=frozenset(range(FIRST_CHAR)),
        added_ids=frozenset(),
        encode=lambda text: [FIRST_CHAR + code for code in text.encode()],
        decode=lambda ids: bytes(i - FIRST_CHAR for i in ids).decode(),
    )
