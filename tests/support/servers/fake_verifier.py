"""A verifier without a model: follows the contract, one token per character, words made up here.

Special prompts: "forever" never ends, "overload" is refused as a full server would, "cut" ends
without a last message, "shutdown" as a server that stops would, "bad FIELD" blames that field.
"""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from protos import verifier_pb2 as pb
from protos import verifier_pb2_grpc as pb_grpc

DEFAULT_TEMPERATURE = 0.625  # that this model recommends
RUN_LEN = 5  # tokens per step with drafting, all but the last one drafted
ANSWER = "and so the tower was painted in three broad bands, red, white and red again"


class FakeVerifier(pb_grpc.VerifierServiceServicer):
    """Remembers the last request, and how many streams were cancelled."""

    def __init__(self, *, has_chat_template: bool = True, pause_s: float = 0.0) -> None:
        self.requests: list[pb.GenerateRequest] = []
        self.was_cancelled = threading.Event()
        self.has_chat_template = has_chat_template
        self.pause_s = pause_s  # what a step takes
        self.num_running = 0
        self._lock = threading.Lock()

    def _end(self) -> None:
        with self._lock:
            self.num_running -= 1
        self.was_cancelled.set()

    def Generate(self, request: pb.GenerateRequest, context: Any) -> Iterator[pb.GenerateResponse]:
        self.requests.append(request)
        if request.sampling.model_defaults and not request.sampling.HasField("temperature"):
            request = _with_default_temperature(request)
        if request.sampling.temperature > 100:
            _abort_invalid(context, "sampling.temperature", "must be 0..100")
        if _asked(request).startswith("bad "):
            _abort_invalid(context, _asked(request).removeprefix("bad "), "is bad")
        if _asked(request) == "overload":
            _abort_busy(context)
        with self._lock:
            self.num_running += 1
        context.add_callback(self._end)
        yield _started(request)
        text = _text(request)
        step = 1 if request.speculation.mode == pb.Speculation.MODE_OFF else RUN_LEN
        starts = range(0, len(text), step)
        if _asked(request) == "forever":
            yield from _forever(context, self.pause_s)
        for start in starts:
            time.sleep(self.pause_s)
            yield _tokens(request, start, text[start : start + step])
        if _asked(request) != "cut":
            yield _finished(request, text, num_steps=len(starts))

    def GetModel(self, request: pb.GetModelRequest, context: Any) -> pb.GetModelResponse:
        return pb.GetModelResponse(
            model="fake",
            architecture="FakeForCausalLM",
            vocabulary_size=128,
            verification=pb.GetModelResponse.VERIFICATION_TREE_SINGLE,
            has_chat_template=self.has_chat_template,
            eos_token_ids=[0],
            device="cpu float32",
            not_bitwise_reason="it has no rows",
        )

    def Tokenize(self, request: pb.TokenizeRequest, context: Any) -> pb.TokenizeResponse:
        text = request.text or request.chat.messages[-1].content
        bos = [] if request.without_special_tokens else [2]
        return pb.TokenizeResponse(token_ids=[*bos, *map(ord, text)])

    def Detokenize(self, request: pb.DetokenizeRequest, context: Any) -> pb.DetokenizeResponse:
        chars = [chr(token_id) for token_id in request.token_ids]
        tokens = [pb.TokenText(text=char, spelled=char.encode()) for char in chars]
        return pb.DetokenizeResponse(text="".join(chars), tokens=tokens if request.each else ())


class StoppingVerifier(FakeVerifier):
    """Turns the first calls away, as a server does that is about to be replaced."""

    def __init__(self, status: grpc.StatusCode, *, turns_away: int) -> None:
        super().__init__()
        self.status, self.turns_away = status, turns_away

    def Generate(self, request: pb.GenerateRequest, context: Any) -> Iterator[pb.GenerateResponse]:
        if len(self.requests) < self.turns_away:
            self.requests.append(request)
            context.abort(self.status, "stopping")
        yield from super().Generate(request, context)


@contextmanager
def serving(servicer: FakeVerifier, *, port: int = 0) -> Iterator[str]:
    """Serve for the length of a `with` block, on a free port if none is given; give the address."""
    server = grpc.server(ThreadPoolExecutor(8))
    pb_grpc.add_VerifierServiceServicer_to_server(servicer, server)
    states = health.HealthServicer()
    states.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(states, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait(5)


def _with_default_temperature(request: pb.GenerateRequest) -> pb.GenerateRequest:
    filled = pb.GenerateRequest()
    filled.CopyFrom(request)
    filled.sampling.temperature = DEFAULT_TEMPERATURE
    return filled


def _asked(request: pb.GenerateRequest) -> str:
    return request.text or (request.chat.messages[-1].content if request.chat.messages else "")


def _text(request: pb.GenerateRequest) -> str:
    text = ANSWER
    if request.sampling.temperature > 0:
        text = text[request.sampling.seed % 8 :]
    return text[: request.stopping.max_tokens or len(text)]


def _started(request: pb.GenerateRequest) -> pb.GenerateResponse:
    mode = request.speculation.mode or pb.Speculation.MODE_AUTO
    started = pb.Started(
        request_id=request.request_id or "made-up",
        model="fake",
        num_prompt_tokens=len(request.text),
        sampling=request.sampling,
        stopping=request.stopping,
        speculation=pb.Speculation(mode=mode),
    )
    return pb.GenerateResponse(started=started)


def _tokens(request: pb.GenerateRequest, first_index: int, text: str) -> pb.GenerateResponse:
    num_drafted = 0 if request.speculation.mode == pb.Speculation.MODE_OFF else len(text) - 1
    tokens = pb.Tokens(
        first_index=first_index,
        token_ids=list(map(ord, text)),
        text=text,
        num_drafted=num_drafted,
        drafted_text_len=num_drafted,
        draft_sources=[pb.DRAFT_SOURCE_LOCAL] * num_drafted,
    )
    if request.output.parts:
        tokens.parts.add(kind=pb.MessagePart.KIND_CONTENT, text=text)
    if request.output.logprobs:
        logprob = _logprob(request)
        best = [pb.TokenLogprob(token_id=ord(char), logprob=logprob) for char in text]
        tokens.logprobs.extend(pb.TokenLogprobs(logprob=logprob, top=[top]) for top in best)
    return pb.GenerateResponse(tokens=tokens)


def _logprob(request: pb.GenerateRequest) -> float:
    return -0.5


def _finished(request: pb.GenerateRequest, text: str, *, num_steps: int) -> pb.GenerateResponse:
    is_cut = len(text) == request.stopping.max_tokens
    reason = pb.Finished.FINISH_REASON_LENGTH if is_cut else pb.Finished.FINISH_REASON_STOP
    if _asked(request) == "shutdown":
        reason = pb.Finished.FINISH_REASON_SHUTDOWN
    finished = pb.Finished(
        reason=reason,
        text="" if is_cut else ".",
        usage=pb.Usage(num_prompt_tokens=len(request.text), num_output_tokens=len(text)),
        timings=pb.Timings(queue_ms=1, prefill_ms=2, decode_ms=10 * num_steps),
        speculation=pb.SpeculationSummary(
            num_steps=num_steps,
            num_drafts=num_steps,
            num_draft_tokens=2 * (len(text) - num_steps),
            num_accepted_tokens=len(text) - num_steps,
            accept_len_histogram=[0, num_steps],
        ),
    )
    if not is_cut:
        finished.stop_token_id = 0
        if request.output.parts:
            finished.parts.add(kind=pb.MessagePart.KIND_CONTENT, text=finished.text)
    return pb.GenerateResponse(finished=finished)


def _forever(context: Any, pause_s: float) -> Iterator[pb.GenerateResponse]:
    index = 0
    while context.is_active():
        time.sleep(pause_s)
        yield pb.GenerateResponse(
            tokens=pb.Tokens(first_index=index, token_ids=[97], text="a", num_drafted=0)
        )
        index += 1


def _abort_invalid(context: Any, field: str, description: str) -> None:
    bad_request = error_details_pb2.BadRequest()
    bad_request.field_violations.add(field=field, description=description)
    _abort(context, code_pb2.INVALID_ARGUMENT, f"{field}: {description}", bad_request)


def _abort_busy(context: Any) -> None:
    retry = error_details_pb2.RetryInfo(retry_delay=Duration(nanos=250_000_000))
    _abort(context, code_pb2.RESOURCE_EXHAUSTED, "the queue is full", retry)


def _abort(context: Any, code: int, message: str, detail: Any) -> None:
    packed = AnyMessage()
    packed.Pack(detail)
    status = status_pb2.Status(code=code, message=message, details=[packed])
    context.abort_with_status(rpc_status.to_status(status))
