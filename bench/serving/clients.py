"""Whether clients slow the engine down, whose thread shares an interpreter with their streams.

A pass of a GPU is stood in for by a wait of as long, which leaves the interpreter to others, as
waiting for a device does. The same requests are read by nobody but a counter, and by clients in
another process, over gRPC; both in turn.
"""

import asyncio
import multiprocessing
import random
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import grpc
import torch
from torch import Tensor

from bench.serving.engine import StepRecorder
from bench.serving.figures import Figure
from bench.serving.forced import AlwaysOn, Forced
from bench.serving.host import (
    NUM_NODES,
    STEP_BARS,
    VOCABULARY,
    answered,
    compiled,
    one_layer,
    recorded,
)
from embedded.drafts import EmbeddedDrafts
from protos import verifier_pb2 as pb
from protos import verifier_pb2_grpc as pb_grpc
from rpc.server import RpcServer
from verifier.api.service import NAME, Backend, VerifierService
from verifier.config import VerifierConfig
from verifier.engine.counters import StepStats
from verifier.engine.engine import Engine
from verifier.model.batch import Segment
from verifier.model.measurements import measure
from verifier.model.model import TargetModel
from verifier.text.tokenizer import Tokenizer

PASS_S = 0.006  # of a model of 8 billion parameters

Conversation = tuple[list[int], list[int]]


class Waiting:
    """A model whose passes take as long as a GPU's, and need no processor."""

    def __init__(self, model: TargetModel) -> None:
        self._model: Any = model
        self._forward = self._model.forward

    def __enter__(self) -> None:
        self._model.forward = self._wait

    def __exit__(self, *error: object) -> None:
        self._model.forward = self._forward

    def _wait(self, segments: list[Segment]) -> Tensor:
        started = time.perf_counter()
        for segment in segments:
            self._model.slots.reserve(segment.slot, segment.kv_span)
        logits = torch.zeros(sum(s.num_logit_rows for s in segments), VOCABULARY)
        time.sleep(max(PASS_S - (time.perf_counter() - started), 0.0))
        return logits


def clients(tokenizer: Tokenizer, *, rounds: int, tokens: int) -> list[Figure]:
    """Milliseconds of a step with clients and without them, by the number of streams."""
    compiled()
    model = one_layer()
    figures = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as elsewhere, Waiting(model):
        for streams in STEP_BARS:
            found: dict[str, list[float]] = {"nobody": [], "clients": []}
            for number in range(2 * rounds):
                readers = elsewhere if number % 2 else None
                steps = asyncio.run(_steps(model, tokenizer, streams, tokens, readers))
                whole = [1e3 * s.step_s for s in steps if s.num_decoding > 0.75 * streams]
                found["clients" if readers else "nobody"].append(statistics.median(whole))
            medians = {who: statistics.median(each) for who, each in found.items()}
            figures += [
                Figure("clients", f"{streams} streams: step read by {who}", ms, "ms")
                for who, ms in medians.items()
            ]
    return figures


async def _steps(
    model: TargetModel,
    tokenizer: Tokenizer,
    streams: int,
    tokens: int,
    readers: ProcessPoolExecutor | None,
) -> list[StepStats]:
    drafts = EmbeddedDrafts(vocabulary="clients", vocabulary_size=VOCABULARY)
    settings: dict[str, Any] = {"model": model.name}
    config, recorder = VerifierConfig(**settings), StepRecorder()
    engine = Engine(model, tokenizer, drafts, measure(model), config, recorder)
    server, service = RpcServer([NAME]), VerifierService()
    pb_grpc.add_VerifierServiceServicer_to_server(service, server.grpc)
    port = await server.start("127.0.0.1:0")
    engine.start()
    service.backend = Backend(engine, tokenizer, config)
    rng = random.Random(streams)
    requests = [recorded(rng, 4 * tokens) for _ in range(streams)]
    engine.drafting.controller = AlwaysOn(lambda num_sequences: 1.0)
    # Read the prompts beforehand, so that all sequences decode at once from their cached rows.
    with Forced(engine) as forced:
        await asyncio.gather(*(answered(forced, known[0], known[1][:1]) for known in requests))
        for known in requests:
            forced.know(*known)
        if readers is None:
            await asyncio.gather(*(answered(forced, *known) for known in requests))
        else:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(readers, read, port, requests)
    await server.stop(drain=engine.stop, grace_s=1.0)
    return [step for step in recorder.steps if not step.num_prompt_rows]


def read(port: int, requests: list[Conversation]) -> None:
    """Read all answers at once, in a process of its own."""
    asyncio.run(_read(port, requests))


async def _read(port: int, requests: list[Conversation]) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = pb_grpc.VerifierServiceStub(channel)
        await asyncio.gather(*(_read_one(stub, *known) for known in requests))


async def _read_one(stub: Any, prompt: list[int], answer: list[int]) -> None:
    request = pb.GenerateRequest(
        token_ids=pb.TokenIds(ids=prompt),
        stopping=pb.Stopping(max_tokens=len(answer), ignore_eos=True),
        speculation=pb.Speculation(
            mode=pb.Speculation.MODE_TREE, max_nodes=NUM_NODES, max_depth=NUM_NODES
        ),
    )
    async for _ in stub.Generate(request):
        pass
