"""What somebody learns who sees only sizes and times of encrypted messages, by a stream's shape.

Some prompts are asked several times each. A listener who has seen all streams but one tells which
prompt that one belongs to: it is the one whose stream is nearest.
"""

import itertools
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from bench.serving.figures import Figure
from lookahead.stack.demo_models import DEMO
from lookahead.stack.model_cache import resolve_model
from lookahead.stack.stack import NO_REDIS, StackConfig, running
from protos import verifier_pb2 as pb
from protos.verifier_pb2_grpc import VerifierServiceStub

SECTION = "what a listener learns"
SHAPES = ("step", "tokens:16", "ms:200")
NUM_MESSAGES = 32  # of a stream that are compared
MAX_TOKENS = 64
TEMPERATURE = 0.3
TOPICS = (
    "How do I bake bread?", "Write a haiku about snow.", "List the planets in order.",
    "What is a binary search?", "Explain inflation to a child.", "Who was Marie Curie?",
    "Name ten animals of the sea.", "Count from one to thirty.", "How does a bicycle stay up?",
    "Write a short poem about rain.", "What is the capital of France?", "Describe a sunset.",
    "Give me three tips for sleeping.", "What is photosynthesis?", "Tell me a joke about cats.",
    "Write the alphabet with commas.",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Heard:
    """One stream, as it goes over the wire."""

    topic: int
    sizes: list[int]
    gaps_s: list[float]
    num_tokens: int
    seconds: float

    def features(self) -> NDArray[np.float64]:
        """Sizes, then times, each of a fixed number of messages."""
        return np.concatenate([_first(self.sizes), _first(self.gaps_s)])


def _first(values: Sequence[float]) -> NDArray[np.float64]:
    found = np.array(values[:NUM_MESSAGES], float)
    return np.pad(found, (0, NUM_MESSAGES - len(found)))


def listener(rounds: int) -> list[Figure]:
    """How often the listener is right, and what each shape costs."""
    model = resolve_model(DEMO, Console(stderr=True))
    figures = [
        Figure(SECTION, "prompts", len(TOPICS), ""),
        Figure(SECTION, "streams of each", rounds, ""),
        Figure(SECTION, "right by guessing", 100 / len(TOPICS), "%"),
    ]
    plain: list[Heard] = []
    for shape in SHAPES:
        heard = _listen(model, shape, rounds)
        plain = plain or heard
        figures += [
            Figure(SECTION, f"right, {shape}", 100 * accuracy(heard), "%"),
            Figure(SECTION, f"bytes per token, {shape}", _bytes_per_token(heard), ""),
            Figure(SECTION, f"time of an answer over that of steps, {shape}", _time(heard, plain)),
        ]
    return figures


def accuracy(heard: list[Heard]) -> float:
    """The share of streams whose nearest other stream has the same prompt."""
    points = np.array([stream.features() for stream in heard])
    points = (points - points.mean(0)) / (points.std(0) + 1e-9)
    topics = np.array([stream.topic for stream in heard])
    distances = np.abs(points[:, None] - points[None, :]).sum(-1)
    np.fill_diagonal(distances, np.inf)
    return float((topics[distances.argmin(1)] == topics).mean())


def _bytes_per_token(heard: list[Heard]) -> float:
    return sum(sum(s.sizes) for s in heard) / sum(s.num_tokens for s in heard)


def _time(heard: list[Heard], plain: list[Heard]) -> float:
    medians = [statistics.median(s.seconds / s.num_tokens for s in some) for some in (heard, plain)]
    return medians[0] / medians[1]


def _listen(model: str, shape: str, rounds: int) -> list[Heard]:
    environ = {**os.environ, "LOOKAHEAD_VERIFIER_STREAM_SHAPE": shape}
    with TemporaryDirectory(prefix="la-") as directory:
        config = StackConfig.apart(
            model, Path(directory), environ=environ, redis=NO_REDIS, embeds=True
        )
        with running(config), grpc.insecure_channel(config.verifier_address) as channel:
            stub: Any = VerifierServiceStub(channel)
            for topic in range(len(TOPICS)):
                _hear(stub, topic, 0)  # what was asked before is what a memory drafts from
            return [
                _hear(stub, topic, seed)
                for seed in range(1, 1 + rounds)
                for topic in range(len(TOPICS))
            ]


def _hear(stub: Any, topic: int, seed: int) -> Heard:
    message = pb.ChatMessage(role="user", content=TOPICS[topic])
    request = pb.GenerateRequest(
        chat=pb.ChatMessages(messages=[message]),
        sampling=pb.Sampling(temperature=TEMPERATURE, seed=seed),
        stopping=pb.Stopping(max_tokens=MAX_TOKENS),
    )
    sizes, times, num_tokens = [], [time.perf_counter()], 0
    for reply in stub.Generate(request, timeout=120):
        num_tokens += len(reply.tokens.token_ids)
        if reply.WhichOneof("event") != "started":
            sizes.append(reply.ByteSize())
            times.append(time.perf_counter())
    gaps = [later - sooner for sooner, later in itertools.pairwise(times)]
    return Heard(topic, sizes, gaps, num_tokens, times[-1] - times[0])
