"""transformers' own generate, as the speed to beat: alone, in a batch, and with prompt lookup."""

import time
from functools import cached_property
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel


class Generate:
    """Decodes greedily with a stock model: in float32 where it is loaded by its name."""

    def __init__(self, model: str | PreTrainedModel) -> None:
        self._named = model
        self._prefill_s: dict[tuple[tuple[int, ...], ...], float] = {}

    @cached_property
    def _model(self) -> Any:
        if not isinstance(self._named, str):
            return self._named
        model: Any = AutoModelForCausalLM.from_pretrained(self._named, dtype=torch.float32)
        return model.eval()

    def greedy(self, prompts: list[list[int]], tokens: int) -> list[list[int]]:
        """So many ids for each of the prompts, which are of one length."""
        with torch.inference_mode():
            output = self._model.generate(
                torch.tensor(prompts, device=self._model.device),
                attention_mask=torch.ones(
                    len(prompts), len(prompts[0]), dtype=torch.long, device=self._model.device
                ),
                max_new_tokens=tokens,
                do_sample=False,
                top_k=None,
                top_p=None,
                eos_token_id=-1,  # no token ends the text
                pad_token_id=0,
            )
        ids: list[list[int]] = output[:, len(prompts[0]) :].tolist()
        return ids

    def step_s(self, prompts: list[list[int]], tokens: int) -> float:
        """Seconds of one decoding step of all prompts together; the prompts' own pass taken off."""
        key = tuple(map(tuple, prompts))
        if key not in self._prefill_s:
            self._prefill_s[key] = min(self._run(prompts, 1, None)[1] for _ in range(2))
        num_tokens, seconds = self._run(prompts, tokens, None)
        return (seconds - self._prefill_s[key]) / (num_tokens - 1)

    def lookup_token_s(self, prompt: list[int], tokens: int, lookup: int) -> float:
        """Seconds per token with prompt lookup of so many tokens."""
        key = (tuple(prompt),)
        if key not in self._prefill_s:
            self._prefill_s[key] = min(self._run([prompt], 1, None)[1] for _ in range(2))
        num_tokens, seconds = self._run([prompt], tokens, lookup)
        return (seconds - self._prefill_s[key]) / (num_tokens - 1)

    def _run(self, prompts: list[list[int]], tokens: int, lookup: int | None) -> tuple[int, float]:
        longest = max(map(len, prompts))
        padded = [[0] * (longest - len(p)) + p for p in prompts]
        mask = [[0] * (longest - len(p)) + [1] * len(p) for p in prompts]
        model = self._model
        started = time.perf_counter()
        with torch.inference_mode():
            output = model.generate(
                torch.tensor(padded, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                max_new_tokens=tokens,
                min_new_tokens=tokens if lookup is None else None,
                do_sample=False,
                top_k=None,
                top_p=None,
                prompt_lookup_num_tokens=lookup,
            )
        return output.shape[1] - longest, time.perf_counter() - started
