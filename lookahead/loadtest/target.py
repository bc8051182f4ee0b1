"""A server under test, and what one request of it brought; here one that speaks our gRPC."""

import time
from dataclasses import dataclass
from typing import Literal, Protocol

from lookahead.client.client import Client
from lookahead.client.requests import GenerateParams
from lookahead.loadtest.prompts import Prompt

ModeName = Literal["as served", "plain", "cold", "warm"]


@dataclass(frozen=True, slots=True)
class Mode:
    """How requests use drafts. as served: nothing said about it."""

    name: ModeName
    namespace: str = ""
    speculation: Literal["auto", "off", "chain", "tree"] = "off"
    learn: Literal["all", "none"] = "none"


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer. Times are seconds since its request was sent."""

    text: str
    num_tokens: int
    first_s: float
    last_s: float
    num_steps: int | None = None  # where the server tells

    @property
    def per_token_s(self) -> float | None:
        """Time per output token after the first; None where there is just one."""
        if self.num_tokens < 2:
            return None
        return (self.last_s - self.first_s) / (self.num_tokens - 1)


@dataclass(frozen=True, slots=True)
class Sampling:
    """The same for all requests."""

    max_tokens: int
    temperature: float


class Target(Protocol):
    """A server; used from many threads."""

    name: str

    @property
    def has_modes(self) -> bool:
        """Whether drafting can be switched per request."""

    def ask(self, prompt: Prompt, mode: Mode, seed: int) -> Reply:
        """Ask once and read to the end. LookaheadError or OSError if that fails."""


class GrpcTarget:
    """A verifier, by its own contract."""

    has_modes = True

    def __init__(self, client: Client, sampling: Sampling) -> None:
        self._client = client
        self._sampling = sampling
        model = client.model()
        self.name = f"{model.model} on {client.address} ({model.device})"

    def ask(self, prompt: Prompt, mode: Mode, seed: int) -> Reply:
        """Ask once and read to the end."""
        params: GenerateParams = {
            "max_tokens": self._sampling.max_tokens,
            "temperature": self._sampling.temperature,
            "seed": seed,
            "speculation": mode.speculation,
            "namespace": mode.namespace,
            "learn": mode.learn,
        }
        start = time.perf_counter()
        if prompt.messages:
            stream = self._client.generate(messages=prompt.messages, **params)
        else:
            stream = self._client.generate(prompt.text, **params)
        times = [time.perf_counter() - start for run in stream.events() if run.token_ids]
        result = stream.result
        return Reply(
            result.text,
            result.usage.num_output_tokens,
            first_s=times[0],
            last_s=times[-1],
            num_steps=result.speculation.num_steps,
        )
