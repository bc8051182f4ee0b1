"""Replays recorded answers on small random models: `python -m bench.chains --traces DIR`.

A hybrid of four layers answers each request plainly and drafted. The answers are forced, so weights
need not be learned ones; each pass is computed in full. A model of attention alone takes the same
chains, for comparison. At the end a conversation has a second turn.
"""

import argparse
import asyncio
import random
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from bench.chains.forced import SourceDrafts, answer
from bench.replay.traces import Request, compact, load
from bench.serving.forced import Forced, NoText
from verifier.config import VerifierConfig
from verifier.engine.counters import Counters
from verifier.engine.engine import Engine
from verifier.model.measurements import measure
from verifier.model.model import TargetModel
from verifier.model.probe import choose_form
from verifier.request import Mode

BARS = {"code-edit": 2.0, "json-extract": 1.6, "rag": 1.6, "random": 0.98}
HYBRID, ATTENTION = "qwen3_5_text", "qwen3"
FIRST_TURN, ANSWER, SECOND_TURN = 2000, 32, 64  # tokens
MAX_TTFT_RATIO, MIN_TOKENS_RATIO = 0.2, 0.9


def main() -> None:
    """Parse the command line, replay, report."""
    parser = argparse.ArgumentParser(prog="python -m bench.chains", description=__doc__)
    parser.add_argument("--traces", type=Path, required=True, help="directory of *.jsonl.gz")
    parser.add_argument("--limit", type=int, default=12, help="requests of each workload")
    parser.add_argument("--workload", action="append", help="default: those with a bar")
    parser.add_argument("--family", default=HYBRID, help="the hybrid's model type")
    options = parser.parse_args()
    for name in options.workload or BARS:
        requests, size = compact(load(options.traces, name, options.limit))
        hybrid, attention = (small_model(f, size) for f in (options.family, ATTENTION))
        gain, tokens = asyncio.run(compare(hybrid, requests))
        _, possible = asyncio.run(compare(attention, requests))
        bar = BARS.get(name)
        print(
            f"{name:14} drafted over plain {gain:.2f}x (at least {bar}), "
            f"tokens per step {tokens:.2f}, of attention alone {possible:.2f}, "
            f"ratio {tokens / possible:.2f} (at least {MIN_TOKENS_RATIO})",
            flush=True,
        )
    ratio = asyncio.run(second_turn(small_model(options.family, 1024)))
    print(
        f"second turn    time to first token {ratio:.3f} of the first's (at most {MAX_TTFT_RATIO})"
    )


def small_model(family: str, vocabulary_size: int) -> TargetModel:
    """Four layers with random weights, a quarter of them attention in a hybrid."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        family,
        vocab_size=vocabulary_size,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=4,
        num_attention_heads=12,
        num_key_value_heads=4,
        head_dim=64,
        linear_num_key_heads=8,
        linear_num_value_heads=8,
        linear_key_head_dim=64,
        linear_value_head_dim=64,
        max_position_embeddings=4096,
    )
    hf = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    model = TargetModel(hf, family, max_context=4096)
    choose_form(model, hf, num_slots=2, draft_rows=25)
    return model


def make_engine(model: TargetModel) -> Engine:
    """An engine with a drafter in its own process."""
    drafts = SourceDrafts(model.vocabulary_size)
    config = VerifierConfig(model=model.name)
    return Engine(model, NoText(), drafts, measure(model), config, Counters())  # type: ignore[arg-type]


async def compare(model: TargetModel, requests: list[Request]) -> tuple[float, float]:
    """Time of plain over drafted decoding, and tokens per step drafted; requests in turn."""
    engine = make_engine(model)
    engine.start()
    plain_ms = drafted_ms = num_tokens = num_steps = 0.0
    with Forced(engine) as forced:
        for request in requests:
            plain = await answer(forced, request, Mode.OFF)
            drafted = await answer(forced, request, Mode.AUTO)
            plain_ms += plain.decode_ms
            drafted_ms += drafted.decode_ms
            num_tokens += drafted.num_output_tokens - 1
            num_steps += drafted.num_steps
    await engine.stop()
    return plain_ms / drafted_ms, num_tokens / num_steps


async def second_turn(model: TargetModel) -> float:
    """Time to the first token of a second turn over that of the first."""
    engine = make_engine(model)
    engine.start()
    rng = random.Random(0)
    text = [rng.randrange(model.vocabulary_size) for _ in range(FIRST_TURN + ANSWER + SECOND_TURN)]
    said = text[FIRST_TURN : FIRST_TURN + ANSWER]
    with Forced(engine) as forced:
        first = await answer(forced, Request("first", text[:FIRST_TURN], said), Mode.AUTO)
        second = await answer(forced, Request("second", text, said), Mode.AUTO)
    await engine.stop()
    return second.prefill_ms / first.prefill_ms


if __name__ == "__main__":
    main()
