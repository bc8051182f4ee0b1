"""The demo model through real processes: the words of transformers' generate, only sooner."""

import os
import statistics
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM

from lookahead import Client
from lookahead.client.results import GenerationResult
from lookahead.stack.model_cache import DEMO, resolve_model
from lookahead.stack.stack import NO_REDIS, Stack, StackConfig, running
from lookahead.terminal.samples import load_samples
from tests.support.models.reference import generate_to_its_end

pytestmark = pytest.mark.timeout(900)

NUM_TOKENS = 180
STORY = "It was a dark and stormy night; the rain fell in torrents, except at occasional intervals"
PROMPTS = [
    *(sample.text for sample in load_samples()),
    STORY,
    "def fibonacci(n):\n    ",
    "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13,",
]


@pytest.fixture(scope="module")
def model_path() -> str:
    return resolve_model(DEMO, Console(quiet=True))


@pytest.fixture(scope="module")
def stack(model_path: str) -> Iterator[Stack]:
    with TemporaryDirectory(prefix="la-") as directory:
        config = StackConfig.apart(model_path, Path(directory), environ=os.environ, redis=NO_REDIS)
        with running(config) as stack:
            yield stack


@pytest.fixture(scope="module")
def client(stack: Stack) -> Iterator[Client]:
    with Client(stack.config.verifier_address) as client:
        yield client


def test_a_thousand_tokens_equal_generate(client: Client, model_path: str) -> None:
    results = [client.generate(prompt, max_tokens=NUM_TOKENS).wait() for prompt in PROMPTS]
    hf = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32).eval()
    expected = [generate_to_its_end(hf, client.tokenize(prompt), NUM_TOKENS) for prompt in PROMPTS]
    assert [list(result.token_ids) for result in results] == expected
    assert sum(len(ids) for ids in expected) >= 1000
    assert sum(result.speculation.num_accepted_tokens for result in results) >= 300


def test_a_seed_gives_one_text_with_drafting_on_and_off(client: Client) -> None:
    params = {"max_tokens": 60, "temperature": 0.8, "top_p": 0.95, "seed": 7, "learn": "none"}
    texts = {
        client.generate(PROMPTS[0], speculation=mode, **params).wait().text  # type: ignore[arg-type]
        for mode in ("off", "auto", "chain", "tree")
    }
    assert len(texts) == 1


def test_prompts_with_documents_decode_at_least_half_again_as_fast(client: Client) -> None:
    """Interleaved, so that whatever else the machine does slows both."""
    ratios = []
    for sample in load_samples():
        plain, drafted = (
            client.generate(sample.text, max_tokens=96, speculation=mode, learn="none").wait()
            for mode in ("off", "auto")
        )
        assert drafted.text == plain.text
        ratios.append(speed(drafted) / speed(plain))
    assert statistics.mean(ratios) >= 1.5, ratios


def speed(result: GenerationResult) -> float:
    """Decoded tokens per millisecond, the first token, which prefill yields, left out."""
    return (len(result.token_ids) - 1) / result.timings.decode_ms


def test_a_drafter_killed_in_the_middle_changes_no_word(stack: Stack, client: Client) -> None:
    """Last, since the drafter stays dead."""
    plain = client.generate(PROMPTS[1], max_tokens=60, speculation="off").wait()
    stream = client.generate(PROMPTS[1], max_tokens=60)
    deltas = iter(stream)
    text = next(deltas)
    stack.children["drafter"].kill()
    text += "".join(deltas)
    assert text == plain.text == stream.result.text
