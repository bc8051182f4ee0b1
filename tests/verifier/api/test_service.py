"""The verifier's rpcs over a real channel, a small real model and a real tokenizer."""

import math
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from torch import Tensor

from protos import verifier_pb2 as pb
from tests.support.servers.running_verifier import TOKENIZER, copycat, ids_of, running, text_of
from verifier.constraints.grammar import ConstraintMatcher, MatchError
from verifier.model.model import TargetModel
from verifier.server import drain, warm_up


async def test_a_stream_is_started_tokens_finished_and_adds_up() -> None:
    async with running() as verifier:
        events = await verifier.generate(
            text="the fox", stopping=pb.Stopping(max_tokens=20, ignore_eos=True), request_id="r1"
        )
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds == ["started", *["tokens"] * (len(events) - 2), "finished"]
    started, finished = events[0].started, events[-1].finished
    assert (started.request_id, started.model) == ("r1", "small")
    assert started.vocabulary_fingerprint == TOKENIZER.fingerprint
    assert started.num_prompt_tokens == len(TOKENIZER.encode("the fox"))
    assert started.stopping.max_tokens == 20
    assert started.sampling.HasField("seed")
    assert finished.reason == pb.Finished.FINISH_REASON_LENGTH
    assert not finished.HasField("stop_token_id")
    assert finished.usage.num_output_tokens == len(ids_of(events)) == 20
    assert text_of(events) == TOKENIZER.decode(ids_of(events))
    indices = [event.tokens.first_index for event in events[1:-1]]
    lengths = [len(event.tokens.token_ids) for event in events[1:-1]]
    assert indices == [sum(lengths[:i]) for i in range(len(lengths))]
    assert finished.timings.prefill_ms > 0
    assert finished.timings.decode_ms > 0


@pytest.mark.parametrize(
    "sampling",
    [
        pb.Sampling(),
        pb.Sampling(temperature=0.9, seed=5),
        pb.Sampling(temperature=1.2, seed=6, top_p=0.9, frequency_penalty=0.5),
    ],
)
async def test_drafting_changes_the_steps_and_nothing_else(sampling: pb.Sampling) -> None:
    fields: dict[str, Any] = {
        "text": "a stitch in time",
        "sampling": sampling,
        "stopping": pb.Stopping(max_tokens=40, ignore_eos=True),
        "output": pb.Output(logprobs=True, top_logprobs=3),
    }
    off = pb.Speculation(mode=pb.Speculation.MODE_OFF)
    async with running() as verifier:
        plain = await verifier.generate(**fields, speculation=off)
    prompt = TOKENIZER.encode("a stitch in time")
    async with running(copycat(prompt + ids_of(plain))) as verifier:
        drafted = await verifier.generate(
            **fields, speculation=pb.Speculation(mode=pb.Speculation.MODE_TREE)
        )
    assert ids_of(drafted) == ids_of(plain)
    assert text_of(drafted) == text_of(plain)
    summary = drafted[-1].finished.speculation
    assert summary.num_steps < plain[-1].finished.speculation.num_steps == 39
    num_drafted = sum(event.tokens.num_drafted for event in drafted)
    assert summary.num_accepted_tokens == num_drafted > 15
    histogram = summary.accept_len_histogram
    assert sum(i * n for i, n in enumerate(histogram)) == num_drafted
    for event in drafted[1:-1]:
        tokens = event.tokens
        assert list(tokens.draft_sources) == [2] * tokens.num_drafted
        assert len(tokens.logprobs) == len(tokens.token_ids)
    flat = [[t for e in run for t in e.tokens.logprobs] for run in (plain, drafted)]
    for one, other in zip(*flat, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
        assert [t.token_id for t in one.top] == [t.token_id for t in other.top]


async def test_the_drafted_head_of_each_runs_text_is_marked() -> None:
    stopping = pb.Stopping(max_tokens=30, ignore_eos=True)
    async with running() as verifier:
        plain = await verifier.generate(text="the", stopping=stopping)
    async with running(copycat(TOKENIZER.encode("the") + ids_of(plain))) as verifier:
        mode = pb.Speculation(mode=pb.Speculation.MODE_CHAIN)
        drafted = await verifier.generate(text="the", stopping=stopping, speculation=mode)
    position = 0
    ids = ids_of(drafted)
    for event in drafted[1:-1]:
        tokens = event.tokens
        end = position + tokens.num_drafted
        assert ids[position:end] == list(tokens.token_ids[: tokens.num_drafted])
        assert tokens.drafted_text_len <= len(tokens.text)
        if tokens.num_drafted == 0:
            assert tokens.drafted_text_len == 0
        position += len(tokens.token_ids)
    assert sum(event.tokens.drafted_text_len for event in drafted) > 0


async def test_stop_strings_end_the_stream_with_their_name() -> None:
    async with running() as verifier:
        stopping = pb.Stopping(max_tokens=60, ignore_eos=True)
        whole = text_of(await verifier.generate(text="the fox", stopping=stopping))
        stop = whole[len(whole) // 2 :][:3]
        stopping.stop_strings.append(stop)
        events = await verifier.generate(text="the fox", stopping=stopping)
    assert text_of(events) == whole[: whole.index(stop)]
    finished = events[-1].finished
    assert (finished.reason, finished.stop_string) == (pb.Finished.FINISH_REASON_STOP, stop)


async def test_a_stop_token_ends_the_stream_and_shows_no_text() -> None:
    async with running() as verifier:
        stopping = pb.Stopping(max_tokens=20, ignore_eos=True)
        ids = ids_of(await verifier.generate(text="the fox", stopping=stopping))
        stopping.stop_token_ids.append(ids[10])
        events = await verifier.generate(text="the fox", stopping=stopping)
    cut = ids.index(ids[10]) + 1
    assert ids_of(events) == ids[:cut]
    assert text_of(events) == TOKENIZER.decode(ids[: cut - 1])
    assert events[-1].finished.stop_token_id == ids[10]


async def test_text_token_ids_and_chat_mean_the_same_prompt() -> None:
    messages = [{"role": "user", "content": "say héllo"}]
    chat_ids = TOKENIZER.encode_chat(messages)
    chat = pb.ChatMessages(messages=[pb.ChatMessage(**message) for message in messages])
    stopping = pb.Stopping(max_tokens=8, ignore_eos=True)
    async with running() as verifier:
        by_chat = await verifier.generate(chat=chat, stopping=stopping)
        by_ids = await verifier.generate(token_ids=pb.TokenIds(ids=chat_ids), stopping=stopping)
        by_text = await verifier.generate(text="say héllo", stopping=stopping)
        text_ids = pb.TokenIds(ids=TOKENIZER.encode("say héllo"))
        by_text_ids = await verifier.generate(token_ids=text_ids, stopping=stopping)
        reply = await verifier.stub.Tokenize(pb.TokenizeRequest(chat=chat))
    assert ids_of(by_chat) == ids_of(by_ids)
    assert ids_of(by_text) == ids_of(by_text_ids)
    assert list(reply.token_ids) == chat_ids


async def test_special_tokens_are_shown_when_asked_for() -> None:
    turn = TOKENIZER._backend.convert_tokens_to_ids("<|turn|>")
    fields: dict[str, Any] = {
        "text": "the",
        "sampling": pb.Sampling(logit_bias={turn: 100}),
        "stopping": pb.Stopping(max_tokens=3),
    }
    async with running() as verifier:
        hidden = await verifier.generate(**fields)
        shown = await verifier.generate(**fields, output=pb.Output(special_tokens=True))
    assert text_of(hidden) == ""
    assert text_of(shown) == "<|turn|>" * 3


async def test_a_bad_request_is_refused_with_its_fields_and_touches_nothing() -> None:
    async with running() as verifier:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await verifier.generate(
                text="x",
                sampling=pb.Sampling(temperature=math.nan),
                stopping=pb.Stopping(max_tokens=0),
            )
        assert verifier.engine.num_running == verifier.engine.num_waiting == 0
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    status = rpc_status.from_call(caught.value)  # type: ignore[arg-type]
    details = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(details)
    fields = [violation.field for violation in details.field_violations]
    assert fields == ["sampling.temperature", "stopping.max_tokens"]


async def test_a_full_queue_refuses_at_once_and_says_when_to_retry() -> None:
    async with running() as verifier:
        request = pb.GenerateRequest(text="the", stopping=pb.Stopping(ignore_eos=True))
        calls = [verifier.stub.Generate(request) for _ in range(4)]
        for call in calls:
            await call.read()  # Started: it runs or waits
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await verifier.generate(text="the")
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        retry = error_details_pb2.RetryInfo()
        assert rpc_status.from_call(caught.value).details[0].Unpack(retry)  # type: ignore[arg-type]
        for call in calls:
            call.cancel()
        await verifier.until_idle()


@pytest.mark.parametrize("num_reads", [0, 1, 2, 5])
async def test_a_client_that_leaves_frees_its_slot(num_reads: int) -> None:
    async with running() as verifier:
        request = pb.GenerateRequest(text="the", stopping=pb.Stopping(ignore_eos=True))
        call = verifier.stub.Generate(request)
        for _ in range(num_reads):
            await call.read()
        call.cancel()
        events = await verifier.generate(text="fox", stopping=pb.Stopping(max_tokens=4))
        assert events[-1].HasField("finished")
        await verifier.until_idle()
        assert verifier.model.slots.num_free == 2


async def test_a_deadline_frees_the_slot_too() -> None:
    async with running() as verifier:
        request = pb.GenerateRequest(text="the", stopping=pb.Stopping(ignore_eos=True))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in verifier.stub.Generate(request, timeout=0.03):
                pass
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        await verifier.until_idle()
        assert verifier.model.slots.num_free == 2


async def test_logits_that_are_not_finite_fail_that_request_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running() as verifier:
        forward = verifier.model.forward
        poison = {"on": True}

        def poisoned(segments: Any) -> Tensor:
            logits = forward(segments)
            return logits * math.nan if poison["on"] else logits

        monkeypatch.setattr(TargetModel, "forward", lambda self, segments: poisoned(segments))
        for sampling in (pb.Sampling(), pb.Sampling(temperature=1.0)):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await verifier.generate(text="the", sampling=sampling)
            assert caught.value.code() == grpc.StatusCode.INTERNAL
            assert "logits" in str(caught.value.details())
        poison["on"] = False
        events = await verifier.generate(text="the", stopping=pb.Stopping(max_tokens=3))
        assert events[-1].HasField("finished")


async def test_a_constraint_too_complex_to_follow_is_the_requests_fault(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def too_complex(self: ConstraintMatcher, token_id: int) -> None:
        raise MatchError("the constraint cannot be followed any further: too many states")

    async with running() as verifier:
        monkeypatch.setattr(ConstraintMatcher, "push", too_complex)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await verifier.generate(text="the", constraint=pb.Constraint(regex="[a-z ]{20}"))
        await verifier.until_idle()
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    details = error_details_pb2.BadRequest()
    assert rpc_status.from_call(caught.value).details[0].Unpack(details)  # type: ignore[arg-type]
    assert [violation.field for violation in details.field_violations] == ["constraint"]
    assert "Traceback" not in caplog.text
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_calls_before_the_model_is_loaded_are_told_to_retry() -> None:
    async with running() as verifier:
        verifier.service.backend = None
        calls: list[Callable[[], Any]] = [
            lambda: verifier.generate(text="the"),
            lambda: verifier.stub.GetModel(pb.GetModelRequest()),
            lambda: verifier.stub.Tokenize(pb.TokenizeRequest(text="a")),
            lambda: verifier.stub.Detokenize(pb.DetokenizeRequest()),
        ]
        for call in calls:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call()
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_the_model_is_described() -> None:
    async with running() as verifier:
        model = await verifier.stub.GetModel(pb.GetModelRequest())
    assert (model.model, model.architecture) == ("small", "LlamaForCausalLM")
    assert model.vocabulary_size == TOKENIZER.size
    assert model.vocabulary_fingerprint == TOKENIZER.fingerprint
    assert (model.max_context_len, model.max_sequences, model.max_waiting) == (250, 2, 2)
    assert model.verification == pb.GetModelResponse.VERIFICATION_TREE
    assert model.has_chat_template
    assert list(model.eos_token_ids) == sorted(TOKENIZER.eos_token_ids)
    assert model.device == "cpu float32"
    assert bool(model.not_bitwise_reason) is not model.bitwise


async def test_detokenize_undoes_tokenize() -> None:
    text = "naïve 日本 🙂\n"
    async with running() as verifier:
        ids = (await verifier.stub.Tokenize(pb.TokenizeRequest(text=text))).token_ids
        reply = await verifier.stub.Detokenize(pb.DetokenizeRequest(token_ids=ids))
    assert reply.text == text


async def test_a_drain_lets_streams_end_and_its_limit_ends_them_cleanly() -> None:
    async with running() as verifier:
        await warm_up(verifier.engine)
        request = pb.GenerateRequest(text="the", stopping=pb.Stopping(ignore_eos=True))
        call = aiter(verifier.stub.Generate(request))
        for _ in range(3):
            await anext(call)
        await drain(verifier.engine, 0.0)
        events = [event async for event in call]
        assert events[-1].finished.reason == pb.Finished.FINISH_REASON_SHUTDOWN
        assert events[-1].finished.usage.num_output_tokens >= 2
