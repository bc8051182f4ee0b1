"""The verifier's rpcs: parse, hand to the engine, stream what it says."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from types import TracebackType
from typing import Any, NoReturn, TypeVar

from protos import verifier_pb2 as pb
from protos import verifier_pb2_grpc as pb_grpc
from rpc.errors import InvalidRequest, ResourceExhausted, ServiceError, Unavailable
from rpc.tracing import Span, Tracer
from verifier.api.callers import Callers
from verifier.api.from_proto import parse_detokenize, parse_generate, parse_tokenize
from verifier.api.limits import described
from verifier.api.params import usable_defaults
from verifier.api.shape import Shape
from verifier.api.to_proto import Replies, detokenized_reply, started_reply
from verifier.api.validation import Limits
from verifier.chat.format import ChatFormat
from verifier.config import VerifierConfig, parse_shape
from verifier.engine.engine import Engine, EngineError
from verifier.engine.events import Completion
from verifier.engine.scheduler import QueueFull
from verifier.engine.sequence import Sequence
from verifier.model.model import VerificationMode
from verifier.request import Request
from verifier.sampling.params import SamplingError, UnfulfillableError
from verifier.telemetry.request_log import RequestLog, log_refusal
from verifier.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

NAME = "lookahead.v1.VerifierService"
TOKENIZERS = 4  # threads
VERIFICATIONS = {
    VerificationMode.PACKED: pb.GetModelResponse.VERIFICATION_TREE,
    VerificationMode.SINGLE: pb.GetModelResponse.VERIFICATION_TREE_SINGLE,
    VerificationMode.CHAIN: pb.GetModelResponse.VERIFICATION_CHAIN,
    VerificationMode.PLAIN: pb.GetModelResponse.VERIFICATION_NONE,
}

T = TypeVar("T")


class Backend:
    """What the rpcs work on, once it is loaded."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        config: VerifierConfig,
        tracer: Tracer | None = None,
    ) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self.chat = ChatFormat(tokenizer, config.tool_format, config.reasoning_format)
        self.tracer = tracer
        self.write_timeout_s = config.write_timeout_s
        self.shape = Shape(*parse_shape(config.stream_shape))
        self.request_log = RequestLog(engine.counters)
        self.callers = Callers(config.keys())
        model = engine.model
        self.limits = Limits(
            vocabulary_size=model.vocabulary_size,
            max_context=model.max_context,
            max_nodes=config.max_nodes,
            max_depth=config.max_depth,
            allows_drafts=model.form is not VerificationMode.PLAIN,
            clamps=config.max_tokens_beyond_context == "clamp",
            recommended=usable_defaults(model.recommended),
        )
        self._description = pb.GetModelResponse(
            model=model.name,
            model_fingerprint=model.fingerprint,
            vocabulary_fingerprint=tokenizer.fingerprint,
            architecture=model.architecture,
            vocabulary_size=model.vocabulary_size,
            max_context_len=model.max_context,
            max_sequences=model.slots.num_slots,
            max_waiting=config.max_waiting,
            verification=VERIFICATIONS[model.form],
            verification_reason=model.reason,
            max_nodes=config.max_nodes if self.limits.allows_drafts else 0,
            has_chat_template=tokenizer.has_chat_template,
            has_reasoning=self.chat.reasoning is not None,
            tool_format=self.chat.calls.name if tokenizer.has_chat_template else "",
            eos_token_ids=sorted(tokenizer.eos_token_ids),
            device=f"{model.device} {str(model.dtype).removeprefix('torch.')}",
            bitwise=model.bitwise,
            not_bitwise_reason="" if model.bitwise else model.not_bitwise_reason,
            attention=model.attention,
            launch=model.rung.value,
            launch_reason=model.launch_reason,
            limits=described(self.limits, model, config),
        )

    def describe(self) -> pb.GetModelResponse:
        """The model, and whether a drafter is there now."""
        self._description.drafter_connected = self.engine.drafting.is_connected
        return self._description


class VerifierService(pb_grpc.VerifierServiceServicer):
    """Answers UNAVAILABLE until it is given a backend."""

    def __init__(self) -> None:
        self.backend: Backend | None = None
        # Tokenizing a long prompt must hold up neither the engine's loop nor short ones.
        self._worker = ThreadPoolExecutor(TOKENIZERS, thread_name_prefix="tokenize")

    async def Generate(
        self, request: pb.GenerateRequest, context: Any
    ) -> AsyncIterator[pb.GenerateResponse]:
        backend = self._ready()
        request = backend.callers.confine(request, context)
        span = _start_span(backend.tracer, context)
        sequence = await self._take(request, backend, span)
        # A client that goes away is seen here or in `finally`, depending on where we wait.
        context.add_done_callback(lambda _: backend.engine.cancel(sequence))
        writing = WriteTimeout(backend.write_timeout_s)
        reason = "CANCELLED"
        try:
            with writing:
                yield started_reply(sequence.request, backend.describe())
            replies = Replies(sequence.request, backend.tokenizer.token_text)
            async with aclosing(backend.shape.events(sequence.answer)) as events:
                async for event in events:
                    if isinstance(event, Completion):
                        reason = ""
                        backend.request_log.complete(sequence, event, span)
                    with writing:
                        yield backend.shape.fill(replies.of(event))
        except (SamplingError, EngineError) as error:
            reason = "ERROR"
            _fail(sequence.request, error)
        finally:
            backend.engine.cancel(sequence)
            if reason:
                backend.request_log.break_off(
                    sequence, "CLIENT_TOO_SLOW" if writing.has_expired else reason, span
                )

    async def GetModel(self, request: pb.GetModelRequest, context: Any) -> pb.GetModelResponse:
        return self._checked(context).describe()

    async def Tokenize(self, request: pb.TokenizeRequest, context: Any) -> pb.TokenizeResponse:
        backend = self._checked(context)
        ids = await self._in_worker(parse_tokenize, request, backend.chat, backend.limits)
        fingerprint = backend.tokenizer.fingerprint
        return pb.TokenizeResponse(token_ids=ids, vocabulary_fingerprint=fingerprint)

    async def Detokenize(
        self, request: pb.DetokenizeRequest, context: Any
    ) -> pb.DetokenizeResponse:
        backend = self._checked(context)
        return await self._in_worker(_detokenized, request, backend)

    async def _take(
        self, request: pb.GenerateRequest, backend: Backend, span: Span | None
    ) -> Sequence:
        """Check and queue a request; ServiceError where it is not taken."""
        try:
            parsed = await self._in_worker(parse_generate, request, backend.chat, backend.limits)
            if span is not None:
                parsed = replace(parsed, traceparent=span.traceparent)
            return _submit(backend.engine, parsed)
        except ServiceError as error:
            log_refusal(request.request_id, error)
            if span is not None:
                span.end({}, error=type(error).__name__)
            raise

    def _ready(self) -> Backend:
        if self.backend is None:
            raise Unavailable("the model is loading")
        return self.backend

    def _checked(self, context: Any) -> Backend:
        backend = self._ready()
        backend.callers.check(context)
        return backend

    async def _in_worker(self, function: Callable[..., T], *arguments: object) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._worker, function, *arguments)


def _detokenized(request: pb.DetokenizeRequest, backend: Backend) -> pb.DetokenizeResponse:
    return detokenized_reply(
        parse_detokenize(request, backend.limits),
        backend.tokenizer,
        special_tokens=request.special_tokens,
        each=request.each,
    )


def _submit(engine: Engine, request: Request) -> Sequence:
    try:
        return engine.submit(request)
    except QueueFull as error:
        raise ResourceExhausted(str(error), retry_after_s=engine.wait_s) from error


def _fail(request: Request, error: Exception) -> NoReturn:
    if isinstance(error, UnfulfillableError):
        raise InvalidRequest.at(error.field, error.problem) from error
    logger.error("request_failed request_id=%s error=%s", request.request_id, error)
    raise ServiceError(str(error)) from error


def _start_span(tracer: Tracer | None, context: Any) -> Span | None:
    if tracer is None:
        return None
    return tracer.serve("Generate", dict(context.invocation_metadata()))


class WriteTimeout:
    """`with` this around handing over a message; made and used in the task of the call.

    When a message is not taken within the limit, the task is cancelled, which resets the stream.
    """

    def __init__(self, limit_s: float) -> None:
        self.has_expired = False
        self._limit_s = limit_s
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        self._timer = self._loop.call_later(self._limit_s, self._expire)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _expire(self) -> None:
        self.has_expired = True
        if self._task is not None:
            self._task.cancel()
