"""Starts answers: checks what a request needs, and starts all of its generations or none."""

import secrets

from lookahead.client.errors import LookaheadError
from lookahead.gateway.answer import Answer
from lookahead.gateway.choice import Choice
from lookahead.gateway.concurrency import all_or_none
from lookahead.gateway.errors import ApiError, from_call, invalid
from lookahead.gateway.metrics import GatewayMetrics
from lookahead.gateway.request import Caller, GenerationRequest
from lookahead.gateway.tokens.texts import TokenTexts
from lookahead.gateway.verifiers import GenerationCall, Verifiers
from protos import verifier_pb2 as pb

SEED_BITS = 53  # what every reader of JSON keeps exactly


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

    async def start(self, request: GenerationRequest, caller: Caller) -> Answer:
        """Start all generations that `request` asks for, or raise ApiError."""
        seed = secrets.randbits(SEED_BITS) if request.seed is None else request.seed
        if request.num_choices > self._max_choices:
            problem = f"asks for more than {self._max_choices} choices over all prompts"
            raise invalid("n", problem, request.n)
        try:
            await self._check_model(request)
            generations = await self._start_all(list(request.calls(caller, seed)))
        except LookaheadError as error:
            raise from_call(error, request.field_names) from None
        has_parts = request.template.output.parts
        choices = [Choice(i, call, has_parts) for i, call in enumerate(generations)]
        return Answer(
            request=request,
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
            raise from_call(error) from None
        if name and name != model.model:  # clients that insist on a name may leave it empty
            problem = f"model: {name[:100]!r} is not served here; {model.model!r} is"
            kind = "invalid_request_error"
            raise ApiError(404, kind, problem, param="model", code="model_not_found")
        return model

    async def check_chat(self, name: str | None) -> None:
        """Raise ApiError if the model of that name answers no conversations."""
        model = await self.check_model(name)
        if not model.has_chat_template:
            problem = (
                f"{model.model} has no chat template: it is a base model that continues text. "
                "Send the text as `prompt` to /v1/completions"
            )
            raise invalid("messages", problem, code="no_chat_template")

    async def _check_model(self, request: GenerationRequest) -> None:
        if request.is_chat:
            await self.check_chat(request.model)
        else:
            await self.check_model(request.model)

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
