"""The demo model decodes prompts with documents much faster with drafts: `make speed-test`.

No test of the default run: how fast a machine is, and what else it does, is no promise of ours.
"""

import statistics

import pytest

from lookahead import Client
from lookahead.client.results import GenerationResult
from lookahead.terminal.samples import load_samples

pytestmark = [pytest.mark.timeout(900), pytest.mark.usefixtures("compiled_kernels")]


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
