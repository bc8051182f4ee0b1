"""A verifier's metrics over real rpcs: what they count is what the clients were told."""

import asyncio
from typing import Any

import grpc
import pytest

from protos import verifier_pb2 as pb
from tests.support.servers.running_verifier import Running, ids_of, running
from verifier.speculation.tree import DraftTree
from verifier.telemetry.metrics import VerifierMetrics

PREFIX = "lookahead_"
TIMEOUT_S = 20.0
# Long enough to let the thread of the model work: one that never sleeps takes the interpreter.
POLL_S = 0.005


def scraped(verifier: Running) -> dict[str, float]:
    """Return what a scrape would read: samples by name and labels."""
    backend = verifier.service.backend
    assert backend is not None
    families = VerifierMetrics(backend.engine, verifier.server.calls).collect()
    return {
        sample.name.removeprefix(PREFIX)
        + "".join(f",{name}={value}" for name, value in sample.labels.items()): sample.value
        for family in families
        for sample in family.samples
    }


def oracle(answers: dict[int, list[int]]) -> Any:
    """Draft what a sequence is going to say, and a wrong token beside it."""

    def propose(sequence_id: int, so_far: list[int], max_nodes: int) -> DraftTree:
        said = answers.get(so_far[0])
        if said is None:
            return DraftTree((), (), ())
        right = said[len(so_far) : len(so_far) + min(3, max_nodes - 1)]
        if not right:
            return DraftTree((), (), ())
        wrong = (right[0] + 1) % 256
        token_ids = (*right, wrong)
        parents = (*range(-1, len(right) - 1), -1)
        return DraftTree(token_ids, parents, (0.9,) * len(token_ids), (2,) * len(token_ids))

    return propose


def asked(prompt: list[int], **fields: Any) -> dict[str, Any]:
    stopping = pb.Stopping(max_tokens=21, ignore_eos=True)
    return {"token_ids": pb.TokenIds(ids=prompt), "stopping": stopping, **fields}


async def test_counters_add_up_to_what_the_clients_were_told() -> None:
    prompts = [[65, 66, 67], [97, 98], [48, 49, 50, 51]]
    answers: dict[int, list[int]] = {}
    async with running(oracle(answers)) as verifier:
        off = pb.Speculation(mode=pb.Speculation.MODE_OFF)
        for prompt in prompts:
            plain = await verifier.generate(**asked(prompt, speculation=off))
            answers[prompt[0]] = [*prompt, *ids_of(plain)]
        before = scraped(verifier)
        streams = await asyncio.gather(*(verifier.generate(**asked(p)) for p in prompts))
        after = scraped(verifier)
    ends = [events[-1].finished for events in streams]
    summaries = [end.speculation for end in ends]

    def risen(name: str) -> float:
        return after[name] - before.get(name, 0.0)

    assert risen("prompt_tokens_total") == sum(map(len, prompts))
    assert risen("generation_tokens_total") == sum(end.usage.num_output_tokens for end in ends)
    assert risen("request_success_total,finish_reason=length") == 3
    assert risen("drafts_total") == sum(s.num_drafts for s in summaries) > 0
    assert risen("draft_tokens_total") == sum(s.num_draft_tokens for s in summaries)
    num_accepted = sum(s.num_accepted_tokens for s in summaries)
    assert risen("accepted_tokens_total,source=namespace") == num_accepted > 0
    assert after["accepted_tokens_total,source=local"] == 0
    positions = {name for name in after if name.startswith("accepted_tokens_per_position")}
    assert sum(map(risen, positions)) == num_accepted
    num_steps = sum(s.num_steps for s in summaries)
    assert risen("emitted_tokens_per_step_count") == num_steps
    # The first token of each comes from its prompt and costs no step.
    assert risen("emitted_tokens_per_step_sum") == risen("generation_tokens_total") - 3
    for name in ("time_to_first_token", "e2e_request_latency", "time_per_output_token"):
        assert risen(f"{name}_seconds_count") == 3
    assert risen("e2e_request_latency_seconds_sum") == pytest.approx(
        sum(e.timings.queue_ms + e.timings.prefill_ms + e.timings.decode_ms for e in ends) / 1e3
    )
    assert risen("step_latency_seconds_count") == risen("step_forward_seconds_count") > 0


async def test_what_runs_and_waits_shows_while_it_does_and_errors_by_their_status() -> None:
    long = pb.Stopping(max_tokens=240, ignore_eos=True)
    async with running() as verifier:
        calls = [
            verifier.stub.Generate(
                pb.GenerateRequest(token_ids=pb.TokenIds(ids=[65, 66]), stopping=long),
                timeout=TIMEOUT_S,
            )
            for _ in range(3)
        ]
        reads = [asyncio.ensure_future(call.read()) for call in calls]
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                during = scraped(verifier)
                counts = during["requests_running"], during["requests_waiting"]
                if counts == (2, 1) and during["kv_cache_usage_ratio"]:
                    break
                await asyncio.sleep(POLL_S)
        assert during["kv_cache_usage_ratio"] < 1
        for call in calls:
            call.cancel()
        await asyncio.gather(*reads, return_exceptions=True)
        await verifier.until_idle()
        with pytest.raises(grpc.aio.AioRpcError):
            await verifier.generate(token_ids=pb.TokenIds(ids=[]))
        async with asyncio.timeout(TIMEOUT_S):
            while scraped(verifier).get("request_errors_total,code=CANCELLED") != 3:
                await asyncio.sleep(POLL_S)
        after = scraped(verifier)
    assert after["request_errors_total,code=INVALID_ARGUMENT"] == 1
    assert after["requests_running"] == after["requests_waiting"] == 0
    assert after["kv_cache_usage_ratio"] == 0


async def test_speculation_says_what_state_it_is_in() -> None:
    async with running() as verifier:
        states = {
            name.partition("state=")[2]: value
            for name, value in scraped(verifier).items()
            if name.startswith("speculation_state")
        }
        assert states == {"on": 1, "backed_off": 0, "no_drafter": 0}
        verifier.engine.drafting.controller.is_on = False
        assert scraped(verifier)["speculation_state,state=backed_off"] == 1
        verifier.engine.drafting.client = None
        assert scraped(verifier)["speculation_state,state=no_drafter"] == 1
        assert "drafter_connected" not in scraped(verifier)
