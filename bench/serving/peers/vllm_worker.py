"""vLLM in this process, stepped by hand: every step is seen as it ends. Run in its environment."""

import itertools
import time
from dataclasses import dataclass
from typing import Any

from vllm import LLM, SamplingParams

from bench.serving.peers.protocol import Answer, Job, Load, serve

METHODS: dict[str, dict[str, Any] | None] = {
    "plain": None,
    "n-gram": {
        "method": "ngram",
        "num_speculative_tokens": 8,
        "prompt_lookup_min": 2,
        "prompt_lookup_max": 5,
    },
    "suffix": {"method": "suffix", "num_speculative_tokens": 16},
}


@dataclass(slots=True)
class Progress:
    """What has come of a prompt's answer."""

    output: Any = None
    first_s: float = 0.0
    end_s: float = 0.0
    num_steps: int = -1  # the first token comes with the prompt and is no step

    def note(self, output: Any, now_s: float) -> None:
        """Take what a step brought."""
        if self.output is None:
            self.first_s = now_s
        self.output, self.end_s = output, now_s
        self.num_steps += 1

    def answer(self) -> Answer:
        """What came in all."""
        num_tokens = len(self.output.token_ids)
        return Answer(self.output.text, num_tokens, self.first_s, self.end_s, self.num_steps)


class Vllm:
    """The engine and how it drafts."""

    def load(self, load: Load) -> None:
        """Load and compile."""
        self._ids = itertools.count()
        self._llm = LLM(
            load.model,
            dtype=load.dtype,
            max_model_len=2048,
            max_num_seqs=8,
            speculative_config=METHODS[load.method],
        )

    def answer(self, job: Job) -> list[Answer]:
        """Step until all prompts are answered."""
        engine = self._llm.llm_engine
        params = SamplingParams(temperature=0.0, max_tokens=job.max_tokens, ignore_eos=True)
        progress = {str(next(self._ids)): Progress() for _ in job.prompts}
        started = time.perf_counter()
        for name, prompt in zip(progress, job.prompts, strict=True):
            engine.add_request(name, {"prompt_token_ids": prompt}, params)
        while engine.has_unfinished_requests():
            for output in engine.step():
                progress[output.request_id].note(output.outputs[0], time.perf_counter() - started)
        return [each.answer() for each in progress.values()]

    def forget(self) -> None:
        """Empty the memory of suffix decoding; nothing else remembers."""
        self._llm.collective_rpc(_forget)


def _forget(worker: Any) -> None:
    cache = getattr(getattr(worker.model_runner, "drafter", None), "suffix_cache", None)
    if cache is not None:
        for request in list(cache.active_requests):
            cache.stop_request(request)
        for request in list(cache.cached_requests):
            cache.evict_cached_response(request)


if __name__ == "__main__":
    serve(Vllm())
