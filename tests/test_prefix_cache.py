"""Rows of a shared beginning are used again, inside a namespace only, and change no text."""

import asyncio
import random

import pytest

from tests.engine_runs import collect, ids_of, make_engine, make_request, run_all, target_model
from tests.fake_drafts import FakeDrafts, path_tree, random_tree
from tests.reference import FAMILIES, VOCABULARY_SIZE, generate
from verifier.engine import Engine
from verifier.events import Completion, TokenRun
from verifier.model import TargetModel
from verifier.request import Mode

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
    runs, completion = await collect(engine, make_request(longer, 10, mode=Mode.OFF))
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
    mamba = next(f for f in FAMILIES if f.model_type == "mamba")
    model = target_model(mamba.build(), max_sequences=2, max_context=120)
    results = asyncio.run(in_turn(make_engine(model, None), PROMPTS[:2], ["a", "a"]))
    assert [completion.num_reused_tokens for _, completion in results] == [0, 0]
