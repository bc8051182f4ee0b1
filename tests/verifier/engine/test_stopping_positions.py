"""Every way to end, at every offset inside an accepted run, ends as plain decoding does."""

import pytest

from tests.support.models.engine_runs import (
    ids_of,
    make_engine,
    make_request,
    run_all,
    target_model,
)
from tests.support.models.fake_drafts import FakeDrafts, path_tree
from tests.support.models.reference import FAMILIES, generate
from verifier.engine.engine import Engine
from verifier.engine.events import Completion, TokenRun
from verifier.model.model import TargetModel
from verifier.request import Mode, Request
from verifier.speculation.tree import DraftTree
from verifier.text.stopping import FinishReason

pytestmark = pytest.mark.slow

PROMPT = [5, 9, 33, 4, 17]
NUM_TOKENS = 16


@pytest.fixture(scope="module")
def answer() -> list[int]:
    return generate(FAMILIES[0].build(), PROMPT, NUM_TOKENS, [])


@pytest.fixture(scope="module")
def model() -> TargetModel:
    return target_model(FAMILIES[0].build(), max_sequences=2, max_context=64)


def run(engine: Engine, request: Request) -> tuple[list[TokenRun], Completion]:
    return run_all(engine, [request])[0]


def perfect(answer: list[int]) -> FakeDrafts:
    """Drafts that go on past every end."""

    def drafter(sequence_id: int, tokens: list[int], max_nodes: int) -> DraftTree:
        return path_tree(answer[len(tokens) - len(PROMPT) :][:8])

    return FakeDrafts(drafter)


def summary(result: tuple[list[TokenRun], Completion]) -> tuple[object, ...]:
    runs, completion = result
    text = "".join(run.text for run in runs) + completion.text
    logprobs = [entry.top[0][0] for run in runs for entry in run.logprobs]
    usage = (completion.num_prompt_tokens, completion.num_output_tokens)
    return ids_of(runs), text, completion.finish, logprobs, usage


def letters(ids: list[int]) -> str:
    return "".join(chr(0x100 + i) for i in ids)


@pytest.mark.parametrize("offset", range(NUM_TOKENS))
@pytest.mark.parametrize("kind", ["eos", "stop id", "stop string", "length", "all at once"])
def test_an_end_inside_an_accepted_run_is_the_end_of_plain_decoding(
    model: TargetModel, answer: list[int], kind: str, offset: int
) -> None:
    num_tokens = NUM_TOKENS
    stopping: dict[str, object] = {}
    if kind in ("eos", "all at once"):
        stopping["eos_token_ids"] = frozenset([answer[offset]])
    if kind in ("stop id", "all at once"):
        stopping["stop_token_ids"] = frozenset([answer[offset]])
    if kind in ("stop string", "all at once"):
        stopping["stop_strings"] = (letters(answer[offset : offset + 2]),)
    if kind in ("length", "all at once"):
        num_tokens = offset + 1
    requests = [
        make_request(PROMPT, num_tokens, mode=mode, **stopping) for mode in (Mode.OFF, Mode.TREE)
    ]
    requests = [with_logprobs(request) for request in requests]
    plain = run(make_engine(model, None), requests[0])
    drafted = run(make_engine(model, perfect(answer)), requests[1])
    assert summary(drafted) == summary(plain)
    assert drafted[1].num_steps <= plain[1].num_steps


def with_logprobs(request: Request) -> Request:
    return Request(
        request.request_id,
        request.prompt_token_ids,
        request.sampling,
        request.stopping,
        request.speculation,
        logprobs=True,
        num_top_logprobs=2,
    )


def test_min_tokens_keeps_an_end_from_being_chosen(model: TargetModel, answer: list[int]) -> None:
    request = make_request(
        PROMPT, 12, eos_token_ids=frozenset([answer[2]]), min_tokens=6, mode=Mode.TREE
    )
    runs, _ = run(make_engine(model, perfect(answer)), request)
    assert len(ids_of(runs)) >= 6
    assert answer[2] not in ids_of(runs)[:6]


def test_the_accept_len_histogram_counts_every_step(model: TargetModel, answer: list[int]) -> None:
    runs, completion = run(make_engine(model, perfect(answer)), make_request(PROMPT, NUM_TOKENS))
    histogram = completion.accept_len_histogram
    assert sum(histogram) == completion.num_steps
    drafted = sum(n * count for n, count in enumerate(histogram))
    assert drafted == completion.num_accepted_tokens == sum(run.num_drafted for run in runs)
    assert 1 + completion.num_steps + drafted == completion.num_output_tokens == NUM_TOKENS
    assert completion.finish.reason is FinishReason.LENGTH
