"""Generated inputs, most of them nonsense, to every call and route: each gets a proper refusal.

Messages are filled at random from their descriptors, bodies are changed at random from good ones,
and some of both are cut and changed as bytes. A crash, a call without an end, an internal error or
more than a line of log for each of them is a fault.
"""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import httpx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from bench.chaos.target import POLITE, Target, target
from bench.serving.figures import Figure
from protos import drafter_pb2, verifier_pb2

SECTION = "generated inputs"
WORKERS = 16
TIMEOUT_S = 20.0
OUR_END = "Internal error from Core"  # of a call that ends while its client still writes
BROKEN = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS}
TEXTS = ["", "a", "\0", "é🙂" * 40, "<s><|turn|>", "{" * 300, "x" * 3000, "tree", "https://a/b?c"]
NUMBERS = [0, 1, 2, 7, 64, 255, 2**31 - 1, 2**32 - 1, 2**63 - 1, -1, -(2**31)]
FLOATS = [0.0, 1.0, -1.0, 1e-40, 1e30, float("nan"), float("inf"), 0.5]
KIND = FieldDescriptor

BODIES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "a", "max_tokens": 2, "stop": ["b"], "logprobs": 1, "n": 1},
    "/v1/chat/completions": {
        "messages": [{"role": "user", "content": "a"}],
        "max_tokens": 2,
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {}}},
        "stream": False,
    },
    "/v1/responses": {"input": [{"role": "user", "content": "a"}], "max_output_tokens": 2},
    "/v1/messages": {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}],
        "max_tokens": 2,
        "system": "s",
        "stop_sequences": ["b"],
    },
    "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": "a"}]},
    "/tokenize": {"prompt": "a", "add_special_tokens": True},
    "/detokenize": {"tokens": [65, 66]},
}


@dataclass(frozen=True, slots=True)
class Rpc:
    """A call, as bytes go over it."""

    service: str
    name: str
    request: type[Message]
    streams_request: bool = False
    streams_response: bool = False


VERIFIER, DRAFTER = "lookahead.v1.VerifierService", "lookahead.v1.DrafterService"
RPCS = [
    Rpc(VERIFIER, "Generate", verifier_pb2.GenerateRequest, streams_response=True),
    Rpc(VERIFIER, "GetModel", verifier_pb2.GetModelRequest),
    Rpc(VERIFIER, "Tokenize", verifier_pb2.TokenizeRequest),
    Rpc(VERIFIER, "Detokenize", verifier_pb2.DetokenizeRequest),
    Rpc(DRAFTER, "Draft", drafter_pb2.DraftRequest, streams_request=True, streams_response=True),
    Rpc(DRAFTER, "Learn", drafter_pb2.LearnRequest, streams_request=True),
    Rpc(DRAFTER, "Forget", drafter_pb2.ForgetRequest),
    Rpc(DRAFTER, "DescribeNamespaces", drafter_pb2.DescribeNamespacesRequest),
]


@dataclass(slots=True)
class Tally:
    """What came of the inputs to one call or route."""

    name: str
    process: str
    num_inputs: int = 0
    num_taken: int = 0  # good enough to be answered
    broken: list[str] = field(default_factory=list)
    hangs: list[str] = field(default_factory=list)
    log_lines: int = 0


def inputs(number: int, seed: int) -> list[Figure]:
    """Send so many to each call and each route of a running stack."""
    with target({"LOOKAHEAD_VERIFIER_MAX_CONTEXT": "256"}) as stack:
        pids = {name: child.pid for name, child in stack.stack.children.items()}
        tallies = asyncio.run(_all(stack, number, seed))
        num_crashes = sum(stack.stack.children[name].pid != pid for name, pid in pids.items())
    return [
        *(Figure(SECTION, f"to {t.name}", t.num_inputs, "") for t in tallies),
        Figure(SECTION, "of all, taken", sum(t.num_taken for t in tallies), ""),
        Figure(SECTION, "crashes", num_crashes + len(stack.told), "", at_most=0),
        *_worst(tallies, "calls without an end", lambda t: t.hangs),
        *_worst(tallies, "internal errors", lambda t: t.broken),
        Figure(
            SECTION,
            "lines of log for each, at most",
            max(t.log_lines / t.num_inputs for t in tallies),
            "",
            at_most=1,
        ),
    ]


def _worst(tallies: list[Tally], name: str, of: Callable[[Tally], list[str]]) -> list[Figure]:
    """Their number, and where they were with an example of each."""
    found = [(tally.name, of(tally)) for tally in tallies if of(tally)]
    total = sum(len(examples) for _, examples in found)
    where = "".join(f"; {where}: {examples[0]}" for where, examples in found)
    return [Figure(SECTION, name + where, total, "", at_most=0)]


async def _all(stack: Target, number: int, seed: int) -> list[Tally]:
    tallies = []
    for rpc in RPCS:
        rng = random.Random(f"{seed} {rpc.name}")
        process = "verifier" if rpc.service == VERIFIER else "drafter"
        address = stack.grpc if rpc.service == VERIFIER else stack.drafter
        async with grpc.aio.insecure_channel(address) as channel:
            call = _caller(channel, rpc)
            tally = Tally(rpc.name, process)
            tallies.append(await _many(stack, tally, number, rng, call))
    headers = {"authorization": f"Bearer {POLITE}", "content-type": "application/json"}
    for path, body in BODIES.items():
        rng = random.Random(f"{seed} {path}")
        async with httpx.AsyncClient(
            base_url=f"http://{stack.http}", headers=headers, timeout=TIMEOUT_S
        ) as client:
            post = _poster(client, path, body)
            tallies.append(await _many(stack, Tally(path, "gateway"), number, rng, post))
    return tallies


async def _many(
    stack: Target,
    tally: Tally,
    number: int,
    rng: random.Random,
    send: Callable[[random.Random, Tally], Awaitable[None]],
) -> Tally:
    before = stack.log_lines(tally.process)
    todo = iter(range(number))

    async def work(own: random.Random) -> None:
        for _ in todo:
            await send(own, tally)
            tally.num_inputs += 1

    await asyncio.gather(*(work(random.Random(rng.random())) for _ in range(WORKERS)))
    tally.log_lines = stack.log_lines(tally.process) - before
    return tally


def _caller(
    channel: grpc.aio.Channel, rpc: Rpc
) -> Callable[[random.Random, Tally], Awaitable[None]]:
    kinds = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, False): channel.stream_unary,
        (True, True): channel.stream_stream,
    }
    method: Any = kinds[rpc.streams_request, rpc.streams_response](f"/{rpc.service}/{rpc.name}")

    async def call(rng: random.Random, tally: Tally) -> None:
        blobs = [_message_bytes(rpc.request, rng) for _ in range(rng.randrange(1, 4))]
        calling = method(*([] if rpc.streams_request else blobs[:1]), timeout=TIMEOUT_S)
        # What is written to a call that has ended is refused by our own end of it.
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            for blob in blobs if rpc.streams_request else ():
                await calling.write(blob)
            if rpc.streams_request:
                await calling.done_writing()
            if rpc.streams_response:
                async for _ in calling:
                    pass
        code = await calling.code()
        tally.num_taken += code is grpc.StatusCode.OK
        if code in BROKEN and (details := await calling.details()) != OUR_END:
            tally.broken.append(f"{code.name}: {details} {blobs!r:.300}")
        elif code is grpc.StatusCode.DEADLINE_EXCEEDED:
            tally.hangs.append(f"{blobs!r:.300}")

    return call


def _message_bytes(kind: type[Message], rng: random.Random) -> bytes:
    message = kind()
    fill(message, rng)
    if isinstance(message, verifier_pb2.GenerateRequest):
        message.stopping.max_tokens = rng.choice([1, 2, 3])  # an answer that is taken is short
    blob = message.SerializeToString()
    return _damaged(blob, rng) if rng.random() < 0.2 else blob


def fill(message: Message, rng: random.Random, depth: int = 0) -> None:
    """Set some of a message's fields to something."""
    for descriptor in message.DESCRIPTOR.fields:
        if rng.random() < 0.35:
            with suppress(ValueError):  # out of the field's range
                _fill_field(message, descriptor, rng, depth)


def _fill_field(message: Message, of: Any, rng: random.Random, depth: int) -> None:
    held = getattr(message, of.name)
    if of.is_repeated:
        for _ in range(rng.randrange(4)):
            if of.message_type is None:
                held.append(_scalar(of, rng))
            elif of.message_type.GetOptions().map_entry:
                _fill_map(held, of, rng)
            elif depth < 3:
                fill(held.add(), rng, depth + 1)
    elif of.message_type is None:
        setattr(message, of.name, _scalar(of, rng))
    elif depth < 3:
        held.SetInParent()
        fill(held, rng, depth + 1)


def _fill_map(held: Any, of: Any, rng: random.Random) -> None:
    fields = of.message_type.fields_by_name
    if fields["value"].message_type is None:
        held[_scalar(fields["key"], rng)] = _scalar(fields["value"], rng)
    else:
        fill(held[_scalar(fields["key"], rng)], rng, 3)


def _scalar(of: Any, rng: random.Random) -> Any:
    if of.type in (KIND.TYPE_STRING, KIND.TYPE_BYTES):
        text = rng.choice(TEXTS)
        return text if of.type == KIND.TYPE_STRING else text.encode()
    if of.type in (KIND.TYPE_FLOAT, KIND.TYPE_DOUBLE):
        return rng.choice(FLOATS)
    if of.type == KIND.TYPE_BOOL:
        return rng.random() < 0.5
    return rng.choice(NUMBERS) if rng.random() < 0.3 else rng.randrange(200)


def _damaged(blob: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, or the end cut off."""
    found = bytearray(blob)
    for _ in range(rng.randrange(1, 4)):
        if found:
            found[rng.randrange(len(found))] = rng.randrange(256)
    return bytes(found[: rng.randrange(len(found) + 1)] if rng.random() < 0.5 else found)


def _poster(
    client: httpx.AsyncClient, path: str, base: dict[str, Any]
) -> Callable[[random.Random, Tally], Awaitable[None]]:
    async def post(rng: random.Random, tally: Tally) -> None:
        body = json.dumps(_changed(json.loads(json.dumps(base)), rng)).encode()
        if rng.random() < 0.2:
            body = _damaged(body, rng)
        try:
            answer = await client.post(path, content=body)
        except httpx.TimeoutException:
            tally.hangs.append(f"{body!r:.300}")
            return
        except httpx.HTTPError as error:
            tally.broken.append(f"{type(error).__name__} {body!r:.300}")
            return
        tally.num_taken += answer.status_code == 200
        if answer.status_code >= 500 and answer.status_code != 503:
            tally.broken.append(f"{answer.status_code} {body!r:.300}")

    return post


def _changed(value: Any, rng: random.Random) -> Any:
    """The same with something else in some places."""
    if rng.random() < 0.1:
        return _anything(rng)
    if isinstance(value, dict):
        changed = {key: _changed(item, rng) for key, item in value.items() if rng.random() < 0.9}
        if rng.random() < 0.2:
            changed[rng.choice([*value, *UNKNOWN])] = _anything(rng)
        return changed
    if isinstance(value, list):
        return [_changed(item, rng) for item in value for _ in range(rng.choice([0, 1, 1, 2]))]
    return value


# Fields that some request has.
UNKNOWN = [
    "temperature", "top_p", "seed", "logit_bias", "stream", "stream_options", "lookahead", "user",
    "tool_choice", "echo", "best_of", "suffix", "prediction", "reasoning", "text", "thinking", "zz",
]  # fmt: skip


def _anything(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.randrange(7 if depth < 3 else 5)
    if kind == 0:
        return rng.choice(TEXTS)
    if kind == 1:
        return rng.choice(NUMBERS)
    if kind == 2:
        return rng.choice(FLOATS)
    if kind in (3, 4):
        return rng.choice([None, True, False])
    if kind == 5:
        return [_anything(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice([*TEXTS, *UNKNOWN]): _anything(rng, depth + 1) for _ in range(3)}
