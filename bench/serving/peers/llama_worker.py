"""llama.cpp's server in this process, its drafts from n-grams. Run in its environment."""

import gc
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from xllamacpp import CommonParams, Server, common_speculative_type

from bench.serving.peers.protocol import Answer, Job, Load, serve

SLOTS = 8
CONTEXT = 2048  # of each slot
METHODS = {
    "plain": common_speculative_type.COMMON_SPECULATIVE_TYPE_NONE,
    "ngram-mod": common_speculative_type.COMMON_SPECULATIVE_TYPE_NGRAM_MOD,
}


class Llama:
    """The server and how it drafts."""

    def load(self, load: Load) -> None:
        """Load the GGUF file."""
        self._params = _params(load)
        self._server: Any = Server(self._params)

    def answer(self, job: Job) -> list[Answer]:
        """Send all prompts at once, each from a thread of its own."""
        started = time.perf_counter()

        def complete(prompt: list[int]) -> Answer:
            reply = self._server.handle_completions(_request(prompt, job.max_tokens))
            return _answer(reply, time.perf_counter() - started)

        with ThreadPoolExecutor(len(job.prompts)) as pool:
            return list(pool.map(complete, job.prompts))

    def forget(self) -> None:
        """Start again: the memory has no other way to be emptied."""
        self._server = None
        gc.collect()
        self._server = Server(self._params)


def _params(load: Load) -> Any:
    params = CommonParams()
    params.model.path = load.model
    params.n_parallel = SLOTS
    params.n_ctx = SLOTS * CONTEXT
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = load.threads
    params.speculative.types = [METHODS[load.method]]
    return params


def _request(prompt: list[int], max_tokens: int) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "n_predict": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "cache_prompt": True,
    }


def _answer(reply: dict[str, Any], end_s: float) -> Answer:
    timings = reply["timings"]
    num_tokens = timings["predicted_n"]
    # Each step brings one token of the model's own; the rest was drafted.
    num_steps = num_tokens - 1 - timings.get("draft_n_accepted", 0)
    first_s = end_s - timings["predicted_ms"] / 1e3
    return Answer(reply["choices"][0]["text"], num_tokens, first_s, end_s, num_steps)


if __name__ == "__main__":
    serve(Llama())
