"""What a step takes outside the model's pass, with drafts from a replica in the same process.

A model of one layer answers what it is made to: answers that copy pieces of their prompts, so that
drafts are right about as often as on real text. What remains is the host's own work.
"""

import asyncio
import random
import statistics
import time
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bench.serving.engine import StepRecorder
from bench.serving.figures import Figure
from bench.serving.forced import AlwaysOn, Forced, NoText
from drafter.kernels.dispatch import dispatch
from embedded.drafts import EmbeddedDrafts
from verifier.config import VerifierConfig
from verifier.engine.engine import Engine
from verifier.model.measurements import measure
from verifier.model.model import TargetModel
from verifier.model.probe import choose_form
from verifier.request import Mode, Request, Speculation
from verifier.sampling.params import SamplingParams
from verifier.text.stopping import StoppingParams

VOCABULARY, PROMPT_LEN = 2048, 300
STEP_BARS = {1: 0.35, 8: 0.8, 32: 2.2}  # ms, by streams
DRAFT_BARS = {1: 0.1, 8: 0.4, 32: 1.2}
NUM_DRAFTS = 300
NUM_NODES = 16
SUCCESSORS = np.tile(np.arange(1, 9, dtype=np.int32), (3, 1))


def one_layer() -> TargetModel:
    """As little model as there can be."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=4096,
    )
    model = TargetModel(hf := LlamaForCausalLM(config).eval(), "one layer", max_context=4096)
    choose_form(model, hf, num_slots=max(STEP_BARS), draft_rows=1 + NUM_NODES)
    return model


def compiled() -> None:
    """Have the kernels of drafts compiled: a process that serves has them soon after its start."""
    dispatch.compile()


def recorded(rng: random.Random, num_tokens: int) -> tuple[list[int], list[int]]:
    """A prompt, and an answer of pieces of it with new words between them."""
    prompt = [rng.randrange(VOCABULARY) for _ in range(PROMPT_LEN)]
    answer: list[int] = []
    while len(answer) < num_tokens:
        start = rng.randrange(PROMPT_LEN - 20)
        answer += prompt[start : start + rng.randrange(3, 20)]
        answer += [rng.randrange(VOCABULARY) for _ in range(rng.randrange(3))]
    return prompt, answer[:num_tokens]


def host(*, tokens: int) -> list[Figure]:
    """Milliseconds outside the pass, by the number of streams."""
    compiled()
    model = one_layer()
    figures = []
    for streams, bar in STEP_BARS.items():
        steps = asyncio.run(_steps(model, streams, tokens))
        whole = [step for step in steps if step.num_decoding > 0.75 * streams]
        outside = [1e3 * (step.step_s - step.forward_s) for step in whole]
        emitted = sum(s.num_emitted for s in whole) / sum(s.num_decoding for s in whole)
        name = f"{streams} streams"
        figures += [
            Figure(
                "host",
                f"{name}: step outside pass and ranking, median",
                statistics.median(outside),
                "ms",
                at_most=bar,
            ),
            Figure("host", f"{name}: tokens per step", emitted, ""),
        ]
    for sequences, bar in DRAFT_BARS.items():
        seconds = asyncio.run(_drafts(sequences))
        figures.append(
            Figure(
                "host",
                f"{sequences} sequences: accepted tokens to next tree, median",
                1e3 * statistics.median(seconds),
                "ms",
                at_most=bar,
            )
        )
    return figures


async def _steps(model: TargetModel, streams: int, tokens: int) -> Any:
    """All steps of answering so many requests together."""
    drafts = EmbeddedDrafts(vocabulary="host", vocabulary_size=VOCABULARY)
    config: dict[str, Any] = {"model": model.name}
    recorder = StepRecorder()
    tokenizer: Any = NoText()
    engine = Engine(model, tokenizer, drafts, measure(model), VerifierConfig(**config), recorder)
    engine.drafting.controller = AlwaysOn(lambda num_sequences: 1.0)
    engine.start()
    rng = random.Random(streams)
    requests = [recorded(rng, 4 * tokens) for _ in range(streams)]
    # Read the prompts beforehand, so that all sequences decode at once from their cached rows.
    with Forced(engine) as forced:
        await asyncio.gather(*(answered(forced, prompt, answer[:1]) for prompt, answer in requests))
        await asyncio.gather(*(answered(forced, *request) for request in requests))
    await engine.stop()
    return [step for step in recorder.steps if not step.num_prompt_rows]


async def answered(forced: Forced, prompt: list[int], answer: list[int]) -> None:
    """Read an answer to its end."""
    request = Request(
        request_id="host",
        prompt_token_ids=tuple(prompt),
        sampling=SamplingParams(),
        stopping=StoppingParams(max_tokens=len(answer)),
        speculation=Speculation(mode=Mode.TREE, max_nodes=NUM_NODES, max_depth=NUM_NODES),
    )
    async for _ in forced.submit(request, answer).stream():
        pass


async def _drafts(num_sequences: int) -> list[float]:
    """From telling a step's tokens to having all trees, in seconds."""
    drafts = EmbeddedDrafts(vocabulary="host", vocabulary_size=VOCABULARY)
    drafts.start()
    rng = random.Random(num_sequences)
    answers, texts = [], []
    for index in range(num_sequences):
        prompt, answer = recorded(rng, 3 * NUM_DRAFTS)
        answers.append(answer)
        texts.append(prompt)
        drafts.open(index, prompt, len(prompt), Speculation())
    seconds = []
    for step in range(NUM_DRAFTS):
        for text, answer in zip(texts, answers, strict=True):
            text += answer[3 * step : 3 * step + 3]
        started = time.perf_counter()
        for index in range(num_sequences):
            drafts.observe(index, num_verified=NUM_NODES, successors=SUCCESSORS)
        drafts.request(dict.fromkeys(range(num_sequences), NUM_NODES))
        for index in range(num_sequences):
            drafts.tree(index)
        seconds.append(time.perf_counter() - started)
        await asyncio.sleep(0)
    for index in range(num_sequences):
        drafts.close(index, learn=False)
    await drafts.stop()
    return seconds[NUM_DRAFTS // 10 :]
