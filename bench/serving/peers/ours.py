"""Our own stack, asked over gRPC like any client's: plain, or with drafts."""

import itertools
import time
from concurrent.futures import ThreadPoolExecutor

from bench.serving.peers.protocol import Answer
from lookahead import Client
from lookahead.client.requests import Learning, SpeculationMode


class Ours:
    """One way of decoding on a running stack, with a memory of its own."""

    def __init__(self, client: Client, mode: SpeculationMode) -> None:
        self._client = client
        self._mode = mode
        self._learn: Learning = "none" if mode == "off" else "all"
        self._namespaces = (f"{mode}-{number}" for number in itertools.count())
        self._namespace = next(self._namespaces)

    def answer(self, prompts: list[list[int]], max_tokens: int) -> list[Answer]:
        """Answer all prompts at once; with drafts, learn the answers."""
        return self._answer(prompts, max_tokens, self._learn)

    def read(self, prompts: list[list[int]]) -> None:
        """Have the prompts' rows cached, as those of requests are that want to be remembered."""
        self._answer(prompts, 1, self._learn)

    def forget(self) -> None:
        """Go on in an empty memory."""
        self._namespace = next(self._namespaces)

    def _answer(self, prompts: list[list[int]], max_tokens: int, learn: Learning) -> list[Answer]:
        started = time.perf_counter()

        def generate(prompt: list[int]) -> Answer:
            result = self._client.generate(
                token_ids=prompt,
                max_tokens=max_tokens,
                ignore_eos=True,
                speculation=self._mode,
                namespace=self._namespace,
                learn=learn,
            ).wait()
            end_s = time.perf_counter() - started
            first_s = end_s - result.timings.decode_ms / 1e3
            num_steps = result.speculation.num_steps
            return Answer(result.text, len(result.token_ids), first_s, end_s, num_steps)

        with ThreadPoolExecutor(len(prompts)) as pool:
            return list(pool.map(generate, prompts))
