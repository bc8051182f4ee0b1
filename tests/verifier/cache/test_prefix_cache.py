"""Rows of a shared beginning are used again, inside a namespace only, and change no text."""

import asyncio
import random
from typing import Any

import pytest

from rpc.contract import Learn
from tests.support.models.engine_runs import (
    collect,
    ids_of,
    make_engine,
    make_request,
    run_all,
    steps_of,
    target_model,
)
from tests.support.models.fake_drafts import FakeDrafts, path_tree, random_tree
from tests.support.models.reference import FAMILIES, VOCABULARY_SIZE, family, generate
from tests.support.waiting import eventually
from verifier.engine.engine import Engine
from verifier.engine.events import Completion, TokenRun
from verifier.model.model import TargetModel
from verifier.request import Mode

pytestmark = pytest.mark.slow

DOCUMENT = [(7 * i) % 61 + 3 for i in range(40)]
PROMPTS = [[*DOCUMENT, 5, 6], [*DOCUMENT, 9], [*DOCUMENT[:25], 11, 12, 13]]


@pytest.fixture
def model() -> TargetModel:
    return target_model(FAMILIES[0].build(), max_sequences=3, max_context=120)


async def in_turn(
    engine: Engine, prompts: list[list[int]], namespaces: list[str]
) -> list[tuple[list[TokenRun], Completion]]:
    engine.start()
    results = [
        await collect(engine, make_request(prompt, 20, namespace=namespace))
        for prompt, namespace in zip(prompts, namespaces, strict=True)
    ]
    await engine.stop()
    return results


async def test_a_shared_beginning_is_computed_once_and_changes_nothing(model: TargetModel) -> None:
    rng = random.Random(3)
    drafts = FakeDrafts(lambda i, tokens, n: random_tree(rng, 20, range(VOCABULARY_SIZE)))
    results = await in_turn(make_engine(model, drafts), PROMPTS, ["a"] * 3)
    hf = FAMILIES[0].build()
    assert [ids_of(runs) for runs, _ in results] == [generate(hf, p, 20, []) for p in PROMPTS]
    assert [completion.num_reused_tokens for _, completion in results] == [0, 40, 25]


async def test_a_whole_prompt_seen_before_is_reused_up_to_its_last_token(
    model: TargetModel,
) -> None:
    results = await in_turn(make_engine(model, None), [PROMPTS[0]] * 2, ["a"] * 2)
    assert results[1][1].num_reused_tokens == len(PROMPTS[0]) - 1
    assert ids_of(results[0][0]) == ids_of(results[1][0])


async def test_rows_past_an_end_inside_an_accepted_run_are_not_reused(model: TargetModel) -> None:
    hf = FAMILIES[0].build()
    answer = generate(hf, PROMPTS[0], 20, [])
    longer = [*PROMPTS[0], *answer[:15], 9]
    drafts = FakeDrafts(lambda i, tokens, n: path_tree(answer[len(tokens) - len(PROMPTS[0]) :]))
    engine = make_engine(model, drafts)
    engine.start()
    await collect(engine, make_request(PROMPTS[0], 20, stop_token_ids=frozenset([answer[4]])))
    runs, completion = await collect(engine, make_request(longer, 10))
    await engine.stop()
    assert ids_of(runs) == generate(hf, longer, 10, [])
    assert completion.num_reused_tokens == len(PROMPTS[0]) + answer.index(answer[4]) + 1


async def test_another_namespace_shares_nothing(model: TargetModel) -> None:
    results = await in_turn(make_engine(model, None), PROMPTS[:2], ["a", "b"])
    assert [completion.num_reused_tokens for _, completion in results] == [0, 0]


async def test_a_running_sequence_lends_its_rows(model: TargetModel) -> None:
    engine = make_engine(model, None)
    engine.start()
    first = engine.submit(make_request(PROMPTS[0], 70))
    stream = first.stream()
    await anext(stream)
    runs, completion = await collect(engine, make_request(PROMPTS[1], 20))
    async for _ in stream:
        pass
    await engine.stop()
    hf = FAMILIES[0].build()
    assert completion.num_reused_tokens == 40
    assert ids_of(runs) == generate(hf, PROMPTS[1], 20, [])
    assert first.token_ids[len(PROMPTS[0]) :] == generate(hf, PROMPTS[0], 70, [])


def test_many_requests_over_few_slots_stay_right(model: TargetModel) -> None:
    rng = random.Random(11)
    prompts = [
        [*DOCUMENT[: rng.choice([0, 20, 40])], *(rng.randrange(3, 64) for _ in range(5))]
        for _ in range(24)
    ]
    results = run_all(make_engine(model, None), [make_request(p, 12) for p in prompts])
    hf = FAMILIES[0].build()
    assert [ids_of(runs) for runs, _ in results] == [generate(hf, p, 12, []) for p in prompts]
    assert sum(completion.num_reused_tokens for _, completion in results) > 0


def test_models_without_slots_reuse_nothing() -> None:
    model = target_model(family("mamba").build(), max_sequences=2, max_context=120)
    results = asyncio.run(in_turn(make_engine(model, None), PROMPTS[:2], ["a", "a"]))
    assert [completion.num_reused_tokens for _, completion in results] == [0, 0]


def num_prompt_rows(engine: Engine) -> int:
    """The prompt rows that an engine has computed."""
    return sum(step.num_prompt_rows for step in steps_of(engine))


@pytest.mark.parametrize("prefill_rows", [1, 7, 64])
def test_samples_of_one_prompt_cost_one_prefill(prefill_rows: int) -> None:
    hf, small = FAMILIES[0].build(), FAMILIES[0].build()
    engine = make_engine(
        target_model(small, max_sequences=6, max_context=120), None, prefill_rows=prefill_rows
    )
    results = run_all(engine, [make_request(PROMPTS[0], 12)] * 6)
    assert [ids_of(runs) for runs, _ in results] == [generate(hf, PROMPTS[0], 12, [])] * 6
    assert num_prompt_rows(engine) == len(PROMPTS[0]) + 5, (
        "each further one computes its last row only"
    )


def test_a_herd_waits_for_the_beginning_that_it_shares() -> None:
    hf, small = FAMILIES[0].build(), FAMILIES[0].build()
    engine = make_engine(
        target_model(small, max_sequences=4, max_context=120), None, prefill_rows=6
    )
    prompts = [[*DOCUMENT, 50 + i, 3] for i in range(4)]
    results = run_all(engine, [make_request(p, 12) for p in prompts])
    assert [ids_of(runs) for runs, _ in results] == [generate(hf, p, 12, []) for p in prompts]
    assert num_prompt_rows(engine) == len(DOCUMENT) + 4 * 2
    assert [completion.num_reused_tokens for _, completion in results] == [0, 40, 40, 40]


def test_no_one_follows_into_another_namespace() -> None:
    engine = make_engine(
        target_model(FAMILIES[0].build(), max_sequences=2, max_context=120), None, prefill_rows=6
    )
    run_all(engine, [make_request(PROMPTS[0], 4, namespace=name) for name in "ab"])
    assert num_prompt_rows(engine) == 2 * len(PROMPTS[0])


@pytest.mark.parametrize("num_steps", [0, 1, 3])
async def test_a_leader_that_leaves_lets_its_followers_go_on(
    num_steps: int, model: TargetModel
) -> None:
    engine = make_engine(model, None, prefill_rows=6)
    leader = engine.submit(make_request(PROMPTS[0], 12))
    engine.start()
    followers = [asyncio.create_task(collect(engine, make_request(p, 12))) for p in PROMPTS[:2]]
    await eventually(lambda: num_prompt_rows(engine) >= 6 * num_steps)
    engine.cancel(leader)
    async with asyncio.timeout(60):
        results = await asyncio.gather(*followers)
    await engine.stop()
    hf = FAMILIES[0].build()
    assert [ids_of(runs) for runs, _ in results] == [generate(hf, p, 12, []) for p in PROMPTS[:2]]
    assert num_prompt_rows(engine) <= len(PROMPTS[0]) + 12, "rows were computed twice"


@pytest.mark.parametrize(
    "private",
    [{"mode": Mode.OFF}, {"learn": Learn.NONE}, {"learn": Learn.OUTPUT}],
)
async def test_a_private_request_leaves_no_rows_and_takes_none(
    model: TargetModel, private: dict[str, Any]
) -> None:
    """Not even the slot that it takes depends on its words."""
    engine = make_engine(model, None)
    engine.start()
    num_reused = []
    for fields in ({}, private, {}, private):
        prompt = PROMPTS[0] if fields else PROMPTS[2]
        _, completion = await collect(engine, make_request(prompt, 5, namespace="a", **fields))
        num_reused.append(completion.num_reused_tokens)
    # While a private one computes its rows, nobody waits for them.
    both = await asyncio.gather(
        collect(engine, make_request([*DOCUMENT, 1], 5, namespace="b", **private)),
        collect(engine, make_request([*DOCUMENT, 2], 5, namespace="b")),
    )
    await engine.stop()
    assert num_reused == [0, 0, len(PROMPTS[2]) - 1, 0]
    assert [completion.num_reused_tokens for _, completion in both] == [0, 0]
