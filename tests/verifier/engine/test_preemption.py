"""Pages run out and are shared: the words and bits stay, the oldest goes on, nothing is copied."""

import asyncio
import random
from collections.abc import Iterator

import pytest
import torch

from tests.support.models.engine_runs import (
    collect,
    ids_of,
    make_engine,
    make_request,
    run_all,
    target_model,
)
from tests.support.models.fake_drafts import FakeDrafts, path_tree, random_tree
from tests.support.models.reference import VOCABULARY_SIZE, Family, family, generate
from tests.support.waiting import eventually
from verifier.cache.kv_cache import KVCache
from verifier.cache.pages import PAGE
from verifier.engine.engine import Engine
from verifier.engine.events import TokenRun
from verifier.engine.sequence import Sequence
from verifier.model.model import TargetModel
from verifier.model.probe import choose_form
from verifier.request import Mode
from verifier.sampling.params import SamplingParams

pytestmark = pytest.mark.slow

PROMPTS = [[(7 * i + 5 * k) % 61 + 3 for i in range(20 + 25 * k)] for k in range(5)]
NUM_TOKENS = 50
MIN_PREEMPTIONS = 1000


def with_pages(hf: torch.nn.Module, num_pages: int, num_slots: int = 5) -> TargetModel:
    """The model with so many pages in all."""
    model = TargetModel(hf, "small", max_context=200)  # type: ignore[arg-type]
    choose_form(model, hf, num_slots=num_slots, draft_rows=25)  # type: ignore[arg-type]
    assert isinstance(model.slots, KVCache)
    while model.slots.pages.num_available > num_pages:
        model.slots.pages.take()
    return model


def said(runs: list[TokenRun]) -> list[object]:
    """Tokens with the bits of their log probabilities."""
    return [(run.token_ids, run.logprobs) for run in runs]


def preempting(engine: Engine, rng: random.Random) -> Engine:
    """Before each step, take the pages of some sequences."""
    admit = engine._admission.admit

    def take_some() -> Iterator[Sequence]:
        for sequence in list(engine._scheduler.running):
            if rng.random() < 0.4:
                engine._admission.preempt(sequence)
        yield from admit()

    engine._admission.admit = take_some  # type: ignore[method-assign]
    return engine


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_words_and_bits_stay_however_often_a_sequence_is_preempted(dtype: torch.dtype) -> None:
    rng = random.Random(5)
    model = with_pages(family("llama").build().to(dtype), num_pages=9)
    assert model.bitwise
    samplings = [SamplingParams(), SamplingParams(temperature=0.9, seed=3)]
    modes = [Mode.TREE, Mode.OFF]  # one leaves its rows when it gives its pages back, one does not

    def requests() -> list[object]:
        return [
            make_request(prompt, NUM_TOKENS, mode=modes[i % 2], sampling=samplings[i // 2 % 2])
            for i, prompt in enumerate(PROMPTS)
        ]

    alone = [run_all(make_engine(model, None), [request])[0] for request in requests()]
    expected = [ids_of(runs) for runs, _ in alone]
    num_preemptions = 0
    while num_preemptions < MIN_PREEMPTIONS / 2:
        drafts = FakeDrafts(
            lambda i, tokens, n: path_tree(expected[i - 1][len(tokens) - len(PROMPTS[i - 1]) :][:3])
        )
        engine = preempting(make_engine(model, drafts), rng)
        results = run_all(engine, requests())
        assert [ids_of(runs) for runs, _ in results] == expected
        num_preemptions += engine.counters.num_preemptions


def test_log_probabilities_keep_their_bits_when_rows_are_computed_again() -> None:
    model = with_pages(family("llama").build(), num_pages=9)
    requests = [make_request(prompt, NUM_TOKENS) for prompt in PROMPTS]
    for request in requests:
        object.__setattr__(request, "logprobs", True)
    expected = [said(run_all(make_engine(model, None), [r])[0][0]) for r in requests]
    engine = preempting(make_engine(model, None), random.Random(6))
    assert [said(runs) for runs, _ in run_all(engine, requests)] == expected
    assert engine.counters.num_preemptions > 20


def test_where_pages_run_out_the_youngest_wait_and_all_come_to_their_end() -> None:
    hf = family("llama").build()
    answers = [generate(hf, prompt, NUM_TOKENS, []) for prompt in PROMPTS]
    model = with_pages(hf, num_pages=6)
    rng = random.Random(8)
    drafts = FakeDrafts(lambda i, tokens, n: random_tree(rng, 20, range(VOCABULARY_SIZE)))
    engine = make_engine(model, drafts, max_nodes=24)
    preempted = []
    preempt = engine._admission.preempt

    def note(sequence: object) -> None:
        assert sequence is not min(engine._scheduler.running, key=lambda s: s.clock.admitted)
        preempted.append(sequence)
        preempt(sequence)  # type: ignore[arg-type]

    engine._admission.preempt = note  # type: ignore[method-assign]
    results = run_all(engine, [make_request(prompt, NUM_TOKENS) for prompt in PROMPTS])
    assert [ids_of(runs) for runs, _ in results] == answers
    assert preempted
    assert engine.counters.num_preemptions == len(preempted)


def test_a_model_that_is_not_bitwise_gets_all_its_pages_at_once_and_keeps_them() -> None:
    hf = family("falcon").build()
    prompts = PROMPTS[:3]
    answers = [generate(hf, prompt, NUM_TOKENS, []) for prompt in prompts]
    model = with_pages(hf, num_pages=6)
    assert not model.bitwise
    engine = make_engine(model, None)
    results = run_all(engine, [make_request(prompt, NUM_TOKENS) for prompt in prompts])
    assert [ids_of(runs) for runs, _ in results] == answers
    assert engine.counters.num_preemptions == 0


async def test_many_streams_hold_the_pages_of_a_shared_beginning_once() -> None:
    num_streams, shared = 32, [(7 * i) % 61 + 3 for i in range(2000)]
    long = Family("llama", {**family("llama").shape, "max_position_embeddings": 2500})
    model = target_model(long.build(), max_sequences=num_streams, max_context=2400)
    assert isinstance(model.slots, KVCache)
    engine = make_engine(model, None)
    engine.start()
    sequences = [engine.submit(make_request([*shared, 3 + i, 9], 40)) for i in range(num_streams)]
    streams = [sequence.stream() for sequence in sequences]
    for stream in streams:
        await anext(stream)
    assert engine.num_running == num_streams
    full = len(shared) // PAGE
    assert model.slots.pages.num_held <= full + num_streams, "a stream has more than its own end"
    await engine.stop()


async def test_the_prompt_of_an_agent_is_read_once() -> None:
    prompt = [(7 * i + i // 61) % 61 + 3 for i in range(20_000)]
    long = Family("llama", {**family("llama").shape, "max_position_embeddings": 32_768})
    model = target_model(long.build(), max_sequences=2, max_context=32_000)
    engine = make_engine(model, None)
    engine.start()
    first, _ = await collect(engine, make_request(prompt, 5))
    again, completion = await collect(engine, make_request(prompt, 5))
    await engine.stop()
    assert ids_of(again) == ids_of(first)
    assert completion.num_reused_tokens == len(prompt) - 1


async def test_a_long_prompt_waits_for_pages_instead_of_taking_them_from_others() -> None:
    model = with_pages(family("llama").build(), num_pages=5)
    engine = make_engine(model, None)
    engine.start()
    first = asyncio.create_task(collect(engine, make_request(PROMPTS[3], 60)))
    second = asyncio.create_task(collect(engine, make_request(PROMPTS[4], 5)))
    await asyncio.gather(first, second)
    await engine.stop()
    assert engine.counters.num_preemptions == 0


async def test_clients_that_do_not_read_give_their_pages_to_those_who_wait() -> None:
    model = with_pages(family("llama").build(), num_pages=4)
    engine = make_engine(model, None, max_unread_tokens=4)
    engine.start()
    idle = [engine.submit(make_request(prompt, 60)) for prompt in PROMPTS[2:4]]
    await eventually(lambda: all(sequence.num_unread > 4 for sequence in idle))
    runs, _ = await collect(engine, make_request(PROMPTS[4], 20))
    assert engine.num_waiting == 1 or engine.num_waiting == 2
    later = [
        ids_of([event async for event in sequence.stream() if isinstance(event, TokenRun)])
        for sequence in idle
    ]
    await engine.stop()
    hf = family("llama").build()
    assert ids_of(runs) == generate(hf, PROMPTS[4], 20, [])
    assert later == [generate(hf, prompt, 60, []) for prompt in PROMPTS[2:4]]
