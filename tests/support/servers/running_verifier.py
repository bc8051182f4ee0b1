"""A verifier with a small model, on whatever event loop asks for it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from bench.exactness.runs import AlwaysOn
from bench.serving.engine import StepRecorder
from tests.support.models.engine_runs import FREE_NODES
from tests.support.models.fake_drafts import FakeDrafts
from tests.support.models.small_tokenizers import small_tokenizer
from tests.verifier.api.test_service import no_draft, serving, small_model
from verifier.config import VerifierConfig
from verifier.engine.engine import Engine

CONFIG = VerifierConfig(model="small", max_sequences=4, max_waiting=8, max_context=250)


@asynccontextmanager
async def verifier(propose: Any = no_draft) -> AsyncIterator[tuple[str, Engine]]:
    """A verifier with a small model; gives its address and its engine."""
    tokenizer = small_tokenizer("byte_level")
    drafts: Any = FakeDrafts(propose)
    engine = Engine(small_model(), tokenizer, drafts, FREE_NODES, CONFIG, StepRecorder())
    engine.drafting.controller = AlwaysOn(lambda num_sequences: 1.0)
    async with serving(engine, tokenizer, CONFIG) as (_, _, port):
        yield f"127.0.0.1:{port}", engine
