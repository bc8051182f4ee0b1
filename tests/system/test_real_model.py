"""The demo model through real processes: the words of transformers' generate, only sooner."""

from collections.abc import Iterator

import pytest
import torch
from transformers import AutoModelForCausalLM

from lookahead import Client
from lookahead.stack.stack import Stack
from lookahead.terminal.samples import load_samples
from tests.support.models.reference import generate_to_its_end
from tests.support.servers.demo_stack import demo_stack

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("compiled_kernels"),
]

NUM_TOKENS = 180
STORY = "It was a dark and stormy night; the rain fell in torrents, except at occasional intervals"
PROMPTS = [
    *(sample.text for sample in load_samples()),
    STORY,
    "Once upon a time, in a village by the sea, there lived a boy who",
    "def fibonacci(n):\n    ",
    "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13,",
]


@pytest.fixture
def doomed_stack(model_path: str) -> Iterator[Stack]:
    """A stack of the test's own: what it kills stays dead."""
    with demo_stack(model_path) as stack:
        yield stack


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


def test_a_drafter_killed_in_the_middle_changes_no_word(doomed_stack: Stack) -> None:
    with Client(doomed_stack.config.verifier_address) as client:
        plain = client.generate(PROMPTS[1], max_tokens=60, speculation="off").wait()
        stream = client.generate(PROMPTS[1], max_tokens=60)
        deltas = iter(stream)
        text = next(deltas)
        doomed_stack.children["drafter"].kill()
        text += "".join(deltas)
        assert text == plain.text == stream.result.text
