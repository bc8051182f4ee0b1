"""With keys, a verifier serves those who have one, each inside its own namespace."""

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lookahead import AsyncClient
from lookahead.client.errors import InvalidRequest, Unauthenticated
from protos import verifier_pb2 as pb
from rpc.keys import Keys
from tests.support.models.fake_drafts import FakeDrafts
from tests.support.servers.running_gateway import gateway
from tests.support.servers.running_verifier import (
    CONFIG,
    FREE_NODES,
    TOKENIZER,
    no_draft,
    serving,
    small_model,
)
from verifier.api.callers import Callers
from verifier.config import VerifierConfig
from verifier.engine.counters import Counters
from verifier.engine.engine import Engine
from verifier.engine.sequence import Sequence

HASH = "sha256:" + hashlib.sha256(b"second").hexdigest()


class Recorded(Engine):
    """Notes what is submitted."""

    asked: list[Any]

    def submit(self, request: Any) -> Sequence:
        self.asked.append(request)
        return super().submit(request)


@asynccontextmanager
async def guarded(folder: Path) -> AsyncIterator[tuple[str, Recorded, Path]]:
    file = folder / "keys.json"
    file.write_text(json.dumps({"first": "team", HASH: "others", "gateway": "*"}))
    config = CONFIG.model_copy(update={"keys_file": file})
    drafts: Any = FakeDrafts(no_draft)
    engine = Recorded(small_model(), TOKENIZER, drafts, FREE_NODES, config, Counters())
    engine.asked = []
    async with serving(engine, TOKENIZER, config) as (_, _, port):
        yield f"127.0.0.1:{port}", engine, file


async def test_without_a_key_that_is_known_nothing_but_health_answers(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (address, engine, _):
        for key in (None, "", "wrong", HASH, "*"):
            async with AsyncClient(address, key=key) as client:
                for call in (client.model(), client.tokenize("a"), client.detokenize([65])):
                    with pytest.raises(Unauthenticated, match="authorization: Bearer KEY"):
                        await call
                with pytest.raises(Unauthenticated):
                    await client.generate("a", max_tokens=2).wait()
        assert not engine.asked
        async with grpc.aio.insecure_channel(address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            status = (await health.Check(health_pb2.HealthCheckRequest())).status
            assert status == health_pb2.HealthCheckResponse.SERVING


async def test_a_request_stays_in_the_namespace_of_its_key(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (address, engine, _):
        for key, given_name, found in [
            ("first", "", "team"),
            ("first", "team", "team"),
            ("first", "mine", "team.mine"),
            ("first", "team.mine", "team.mine"),
            ("second", "team", "others.team"),
            ("gateway", "anything", "anything"),
        ]:
            async with AsyncClient(address, key=key) as client:
                await client.generate("a", max_tokens=2, namespace=given_name).wait()
            asked = engine.asked.pop()
            assert asked.speculation.namespace == found
            assert asked.account == ("" if key == "gateway" else found.partition(".")[0])


async def test_an_account_is_named_by_those_only_who_may_speak_for_anybody(
    tmp_path: Path,
) -> None:
    async with guarded(tmp_path) as (address, engine, _):
        for key, is_allowed in (("gateway", True), ("first", False)):
            async with grpc.aio.insecure_channel(address) as channel:
                call = channel.unary_stream(
                    "/lookahead.v1.VerifierService/Generate",
                    request_serializer=pb.GenerateRequest.SerializeToString,
                    response_deserializer=pb.GenerateResponse.FromString,
                )
                request = pb.GenerateRequest(text="a", account="rich")
                request.stopping.max_tokens = 1
                replies = call(request, metadata=[("x-api-key", key)])
                if is_allowed:
                    assert [reply async for reply in replies]
                    assert engine.asked.pop().account == "rich"
                else:
                    with pytest.raises(grpc.aio.AioRpcError, match="account: is set by the API"):
                        await anext(aiter(replies))


async def test_keys_come_and_go_without_a_restart(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (address, _, file):
        async with AsyncClient(address, key="new") as client:
            with pytest.raises(Unauthenticated):
                await client.model()
            file.write_text(json.dumps({"new": "team"}))
            await client.model()
            file.write_text("{")  # half written: the old ones go on
            await client.model()
        async with AsyncClient(address, key="first") as client:
            with pytest.raises(Unauthenticated):
                await client.model()


async def test_a_name_that_is_too_long_inside_the_keys_is_refused(tmp_path: Path) -> None:
    async with (
        guarded(tmp_path) as (address, _, _),
        AsyncClient(address, key="first") as client,
    ):
        with pytest.raises(InvalidRequest, match=r"speculation.namespace: has more than"):
            await client.generate("a", namespace="n" * 127).wait()


class Context:
    def __init__(self, key: str) -> None:
        self.key = key

    def invocation_metadata(self) -> list[tuple[str, str]]:
        return [("authorization", f"bearer {self.key}")]


@given(st.text("ab.-", max_size=8))
def test_no_namespace_leads_out_of_the_keys(inner: str) -> None:
    callers = Callers(Keys(lambda: {"key": "a"}))
    request = pb.GenerateRequest(speculation=pb.Speculation(namespace=inner))
    confined = callers.confine(request, Context("key"))
    assert confined.account == "a"
    assert f"{confined.speculation.namespace}.".startswith("a.")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[]", "not a JSON object"),
        ("{}", "holds no key"),
        ('{"k": "a", "l": "a.b"}', "lies inside"),
        ('{" k": "a"}', "spaces around"),
        ('{"sha256:1": "a"}', "64 hexadecimal digits"),
    ],
)
def test_a_file_that_is_no_good_is_refused_at_the_start(
    tmp_path: Path, content: str, problem: str
) -> None:
    file = tmp_path / "keys.json"
    file.write_text(content)
    with pytest.raises(ValidationError, match=problem):
        VerifierConfig(model="m", keys_file=file)


async def test_a_gateway_speaks_for_those_whose_keys_it_has_checked(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (address, engine, _):
        keys, body = {"of-acme": "acme"}, {"model": "small", "prompt": "a", "max_tokens": 2}
        for verifier_key, status in (("gateway", 200), ("wrong", 500)):
            async with (
                gateway(address, keys=keys, verifier_key=verifier_key) as own,
                httpx.AsyncClient(
                    base_url=f"http://{own}", headers={"x-api-key": "of-acme"}
                ) as client,
            ):
                response = await client.post("/v1/completions", json=body)
                assert response.status_code == status, response.text
        asked = engine.asked.pop()
        assert (asked.account, asked.speculation.namespace) == ("acme", "acme")
