"""What one who asks learns about what others asked: nothing, across keys and where nothing is kept.

Somebody asks one of two texts that nobody asked before. A neighbour then asks the first one and
looks at three figures of the answer. Each is a classifier of which text it was; 0.5 is a guess.
"""

import random
import time
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np

from bench.chaos.target import HOSTILE, POLITE, target
from bench.serving.figures import Figure

SECTION = "what a neighbour learns"
PROMPT_LEN, MAX_TOKENS = 150, 16
GUESS, MOST_OFF, LEAST_TOLD = 0.5, 0.05, 0.9


@dataclass(frozen=True, slots=True)
class Way:
    """How the one asks who is spied upon."""

    name: str
    key: str
    learn: str
    is_open: bool  # nothing was promised: here the figures must tell, or they could not


WAYS = (
    Way("another key", HOSTILE, "all", is_open=False),
    Way("the same key, learn: none", POLITE, "none", is_open=False),
    Way("the same key, learn: all (nothing promised)", POLITE, "all", is_open=True),
)
NAMES = ("accepted drafts", "reused rows", "time")


def neighbours(trials: int, seed: int) -> list[Figure]:
    """Area under the curve of each figure's classifier, of so many trials each way."""
    figures = [Figure(SECTION, "trials each way", trials, "")]
    with target() as stack, httpx.Client(base_url=f"http://{stack.http}", timeout=60) as client:
        for way in WAYS:
            areas = _areas(client, way, trials, random.Random(f"{seed} {way.name}"))
            if way.is_open:
                told = max(areas)
                figures.append(Figure(SECTION, f"AUC, {way.name}", told, "", at_least=LEAST_TOLD))
                continue
            figures += [
                Figure(SECTION, f"AUC off a guess, {way.name}: {name}", abs(area - GUESS), "",
                       at_most=MOST_OFF)
                for name, area in zip(NAMES, areas, strict=True)
            ]  # fmt: skip
    return figures


def _areas(client: httpx.Client, way: Way, trials: int, rng: random.Random) -> list[float]:
    seen: dict[bool, list[list[float]]] = {True: [], False: []}
    for _ in range(trials):
        texts = [_text(rng), _text(rng)]
        is_first = rng.random() < 0.5
        _ask(client, way.key, texts[0 if is_first else 1], way.learn)
        seen[is_first].append(_ask(client, POLITE, texts[0], "all"))
    return [
        auc([row[i] for row in seen[True]], [row[i] for row in seen[False]])
        for i in range(len(NAMES))
    ]


def auc(ones: list[float], others: list[float]) -> float:
    """How often a value of the first kind is the larger one; equal ones count half."""
    first, second = np.array(ones)[:, None], np.array(others)[None, :]
    return float(((first > second) + 0.5 * (first == second)).mean())


def _text(rng: random.Random) -> str:
    return "".join(rng.choice("abcdefghijklmnop ") for _ in range(PROMPT_LEN))


def _ask(client: httpx.Client, key: str, prompt: str, learn: str) -> list[float]:
    body: dict[str, Any] = {
        "prompt": prompt,
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "lookahead": {"learn": learn, "mode": "tree"},
    }
    started = time.perf_counter()
    answer = client.post("/v1/completions", json=body, headers={"authorization": f"Bearer {key}"})
    seconds = time.perf_counter() - started
    answer.raise_for_status()
    found = answer.json()
    reused = (found["usage"].get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    return [float(found["lookahead"]["num_accepted_tokens"]), float(reused), -seconds]
