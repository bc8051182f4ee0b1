"""Verifiers with a small real model: in this process behind their rpcs, and for an event loop."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bench.serving.engine import StepRecorder
from bench.serving.forced import AlwaysOn
from protos import verifier_pb2 as pb
from protos import verifier_pb2_grpc as pb_grpc
from rpc.server import RpcServer
from rpc.tls import TlsFiles
from tests.support.models.engine_runs import FREE_NODES, small_config
from tests.support.models.fake_drafts import FakeDrafts
from tests.support.models.small_tokenizers import small_tokenizer
from tests.support.waiting import eventually
from verifier.api.service import NAME, Backend, VerifierService
from verifier.config import VerifierConfig
from verifier.engine.engine import Engine
from verifier.model.model import TargetModel
from verifier.model.probe import choose_form
from verifier.speculation.draft_client import DraftClient
from verifier.speculation.tree import EMPTY_TREE, DraftTree

TOKENIZER = small_tokenizer("byte_level")
TIMEOUT_S = 20.0
CONFIG = small_config(max_sequences=2, max_waiting=2, max_context=250)
# For several users at once.
ROOMY = small_config(max_sequences=4, max_waiting=8, max_context=250)
Propose = Callable[[int, list[int], int], DraftTree]


def no_draft(sequence_id: int, token_ids: list[int], max_nodes: int) -> DraftTree:
    return EMPTY_TREE


@dataclass
class Running:
    """A verifier in this process and a stub that talks to it."""

    server: RpcServer
    service: VerifierService
    engine: Engine
    model: TargetModel
    stub: pb_grpc.VerifierServiceStub
    port: int

    async def generate(self, **fields: Any) -> list[pb.GenerateResponse]:
        request = pb.GenerateRequest(**fields)
        return [event async for event in self.stub.Generate(request, timeout=TIMEOUT_S)]

    async def until_idle(self) -> None:
        await eventually(lambda: not self.engine.num_running + self.engine.num_waiting)


def small_model(max_context: int = 250) -> TargetModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=TOKENIZER.size,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=max_context + 6,
        initializer_range=0.2,
    )
    hf = LlamaForCausalLM(config).eval()
    model = TargetModel(hf, "small", max_context=max_context)
    choose_form(model, hf, num_slots=2, draft_rows=25)
    return model


@asynccontextmanager
async def running(propose: Propose = no_draft) -> AsyncIterator[Running]:
    """A verifier whose drafts a function makes up."""
    drafts: Any = FakeDrafts(propose)
    async with _running(
        Engine(small_model(), TOKENIZER, drafts, FREE_NODES, CONFIG, StepRecorder())
    ) as found:
        yield found


@asynccontextmanager
async def drafting_from(drafter: str, tls: TlsFiles | None = None) -> AsyncIterator[Running]:
    """A verifier that always asks the drafter at this address for drafts."""
    drafts = DraftClient(
        [drafter], vocabulary=TOKENIZER.fingerprint, vocabulary_size=TOKENIZER.size, tls=tls
    )
    engine = Engine(small_model(), TOKENIZER, drafts, FREE_NODES, CONFIG, StepRecorder())
    engine.drafting.controller = AlwaysOn(lambda num_sequences: 1.0)
    async with _running(engine) as found:
        await eventually(lambda: drafts.is_connected)
        yield found


@asynccontextmanager
async def _running(engine: Engine) -> AsyncIterator[Running]:
    async with (
        serving(engine, TOKENIZER, CONFIG) as (server, service, port),
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        stub = pb_grpc.VerifierServiceStub(channel)
        yield Running(server, service, engine, engine.model, stub, port)


@asynccontextmanager
async def serving(
    engine: Engine, tokenizer: Any, config: VerifierConfig
) -> AsyncIterator[tuple[RpcServer, VerifierService, int]]:
    """Run an engine behind its rpcs; gives its server, its service and the port."""
    engine.start()
    server, service = RpcServer([NAME]), VerifierService()
    service.backend = Backend(engine, tokenizer, config)
    pb_grpc.add_VerifierServiceServicer_to_server(service, server.grpc)
    port = await server.start("127.0.0.1:0")
    await server.mark_serving()
    try:
        yield server, service, port
    finally:
        await server.stop(drain=engine.stop, grace_s=1.0)


def text_of(events: list[pb.GenerateResponse]) -> str:
    return "".join(event.tokens.text for event in events) + events[-1].finished.text


def ids_of(events: list[pb.GenerateResponse]) -> list[int]:
    return [i for event in events for i in event.tokens.token_ids]


def copycat(token_ids: list[int]) -> Propose:
    """Drafts that know the answer but for every fifth token."""

    def propose(sequence_id: int, so_far: list[int], max_nodes: int) -> DraftTree:
        ahead = token_ids[len(so_far) : len(so_far) + min(4, max_nodes)]
        wrong = [t if (len(so_far) + i) % 5 else 1 for i, t in enumerate(ahead)]
        count = len(wrong)
        return DraftTree(
            tuple(wrong), tuple(range(-1, count - 1)), (0.9,) * count, sources=(2,) * count
        )

    return propose


@asynccontextmanager
async def verifier(
    propose: Propose = no_draft, *, max_context: int = 250
) -> AsyncIterator[tuple[str, Engine]]:
    """A verifier with a small model that always drafts; gives its address and its engine."""
    drafts: Any = FakeDrafts(propose)
    config = ROOMY.model_copy(update={"max_context": max_context})
    model = small_model(max_context)
    engine = Engine(model, TOKENIZER, drafts, FREE_NODES, config, StepRecorder())
    engine.drafting.controller = AlwaysOn(lambda num_sequences: 1.0)
    async with serving(engine, TOKENIZER, config) as (_, _, port):
        yield f"127.0.0.1:{port}", engine
