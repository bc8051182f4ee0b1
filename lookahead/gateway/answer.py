"""A request that is being answered: its generations, from their start to the last of them."""

import secrets
from dataclasses import dataclass
from typing import Any

from lookahead.client.errors import LookaheadError
from lookahead.gateway.choice import Choice
from lookahead.gateway.concurrency import all_or_none
from lookahead.gateway.errors import ApiError, from_call, invalid
from lookahead.gateway.formats import ChatFormat, CompletionFormat, Envelope, Format
from lookahead.gateway.metrics import GatewayMetrics
from lookahead.gateway.schema import ChatRequest, Generation
from lookahead.gateway.token_texts import TokenTexts
from lookahead.gateway.translation import Caller, generate_requests, renamed_fields
from lookahead.gateway.usage import speculation, usage
from lookahead.gateway.verifiers import GenerationCall, Verifiers
from protos import verifier_pb2 as pb

SEED_BITS = 53  # what every reader of JSON keeps exactly


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one request. Close it once."""

    request: Generation
    envelope: Envelope
    choices: list[Choice]
    seed: int
    texts: TokenTexts
    caller: Caller
    metrics: GatewayMetrics

    async def whole(self) -> dict[str, Any]:
        """Wait for all choices and return the answer's body."""
        reasons = await all_or_none(self._read(choice) for choice in self.choices)
        complete = self.envelope.format.complete
        entries = [complete(*pair) for pair in zip(self.choices, reasons, strict=True)]
        return self.envelope.answer(entries, **self.summary())

    def summary(self) -> dict[str, Any]:
        """Usage and the figures of drafting, once all choices are finished."""
        has_prediction = self.request.prediction is not None
        return {
            "usage": usage(self.choices, n=self.request.n, has_prediction=has_prediction),
            "lookahead": speculation(self.choices, seed=self.seed, ignored=self.request.ignored),
        }

    def close(self) -> None:
        """Cancel the choices that still run."""
        for choice in self.choices:
            choice.generating.close()
        self.metrics.end_answer(self.caller.arrival, self.choices)

    def explained(self, error: LookaheadError) -> ApiError:
        """Return the error that the client gets for a failed generation."""
        return from_call(error, renamed_fields(self.request))

    async def _read(self, choice: Choice) -> str:
        reason = None
        async for piece in choice.pieces(self.texts):
            reason = piece.finish_reason
        assert reason is not None, "a stream that ends has an end"
        return reason


class Answerer:
    """Starts answers."""

    def __init__(
        self, verifiers: Verifiers, metrics: GatewayMetrics, *, max_choices: int, timeout_s: float
    ) -> None:
        self._verifiers = verifiers
        self._metrics = metrics
        self._texts = TokenTexts(verifiers)
        self._max_choices = max_choices
        self._timeout_s = timeout_s

    async def start(self, request: Generation, caller: Caller) -> Answer:
        """Start all generations that `request` asks for, or raise ApiError."""
        seed = secrets.randbits(SEED_BITS) if request.seed is None else request.seed
        if request.num_prompts * request.n > self._max_choices:
            problem = f"asks for more than {self._max_choices} choices over all prompts"
            raise invalid("n", problem, request.n)
        calls = generate_requests(request, caller, seed=seed)
        try:
            await self._check_model(request)
            generations = await self._start_all(calls)
        except LookaheadError as error:
            raise from_call(error, renamed_fields(request)) from None
        choices = [Choice(i, generating) for i, generating in enumerate(generations)]
        return Answer(
            request=request,
            envelope=_envelope(request, caller, choices),
            choices=choices,
            seed=seed,
            texts=self._texts,
            caller=caller,
            metrics=self._metrics,
        )

    async def check_model(self, name: str | None) -> pb.GetModelResponse:
        """Return the model served; ApiError if a request names another one."""
        try:
            model = await self._verifiers.model()
        except LookaheadError as error:
            raise from_call(error, {}) from None
        if name and name != model.model:  # clients that insist on a name may leave it empty
            problem = f"model: {name[:100]!r} is not served here; {model.model!r} is"
            kind = "invalid_request_error"
            raise ApiError(404, kind, problem, param="model", code="model_not_found")
        return model

    async def _check_model(self, request: Generation) -> None:
        model = await self.check_model(request.model)
        if isinstance(request, ChatRequest) and not model.has_chat_template:
            problem = (
                f"{model.model} has no chat template: it is a base model that continues text. "
                "Send the text as `prompt` to /v1/completions"
            )
            raise invalid("messages", problem, code="no_chat_template")

    async def _start_all(self, calls: list[pb.GenerateRequest]) -> list[GenerationCall]:
        started: dict[int, GenerationCall] = {}

        async def start(i: int, call: pb.GenerateRequest) -> None:
            started[i] = await self._verifiers.generate(call, timeout_s=self._timeout_s)

        try:
            await all_or_none(start(i, call) for i, call in enumerate(calls))
        except BaseException:
            for generating in started.values():
                generating.close()
            raise
        return [started[i] for i in range(len(calls))]


def _envelope(request: Generation, caller: Caller, choices: list[Choice]) -> Envelope:
    shape: Format = ChatFormat() if isinstance(request, ChatRequest) else CompletionFormat()
    started = choices[0].generating.started
    answer_id = f"{shape.prefix}-{caller.request_id}"
    return Envelope(shape, answer_id, started.model, started.model_fingerprint)
