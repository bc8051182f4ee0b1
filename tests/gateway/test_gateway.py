"""The gateway's answers, asked for with OpenAI's own client, are those of the gRPC call."""

import asyncio
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, OpenAI

from lookahead import Client
from tests.support.servers.running_gateway import gateway, host
from tests.support.servers.running_verifier import verifier
from verifier.speculation.tree import EMPTY_TREE, DraftTree

pytestmark = [pytest.mark.slow, pytest.mark.clients]

PROMPT = "the quick brown fox jumps over"
MESSAGES = [{"role": "user", "content": "say héllo"}]
IDS = [5, 6, 7, 300, 20]
BIAS_120 = {"logit_bias": {120: 60.0}}
# Each changes what the small model says, or where it stops; names as our Python client has them.
PARAMS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "sampled": {"temperature": 1.0, "seed": 5},
    "top_p": {"temperature": 1.0, "seed": 6, "top_p": 0.6},
    "top_k": {"temperature": 1.0, "seed": 7, "top_k": 3},
    "min_p": {"temperature": 1.5, "seed": 8, "min_p": 0.2},
    "frequency": {"temperature": 0, "frequency_penalty": 1.5},
    "presence": {"temperature": 0, "presence_penalty": 1.5},
    "repetition": {"temperature": 0, "repetition_penalty": 1.7},
    "bias": {"temperature": 0, "logit_bias": {290: 50.0}},
    "stop": {"temperature": 0, "stop": ["e", "a"]},
    "stop ids": {"temperature": 0, "stop_token_ids": [120], "min_tokens": 3, **BIAS_120},
    "ignore eos": {"temperature": 0, "logit_bias": {2: 100.0}, "ignore_eos": True},
}
EXTRAS = {"top_k", "min_p", "repetition_penalty", "stop_token_ids", "min_tokens", "ignore_eos"}


@dataclass(frozen=True)
class Served:
    """A gateway, the verifier behind it, and clients of both."""

    url: str
    openai: OpenAI
    grpc: Client


class Copycat:
    """Drafts from the sequences it was told, all but every fifth token right."""

    def __init__(self) -> None:
        self.sequences: list[list[int]] = []

    def __call__(self, sequence_id: int, so_far: list[int], max_nodes: int) -> DraftTree:
        for known in self.sequences:
            if known[: len(so_far)] == so_far:
                ahead = known[len(so_far) :][: min(4, max_nodes)]
                wrong = [t if (len(so_far) + i) % 5 else 1 for i, t in enumerate(ahead)]
                parents = tuple(range(-1, len(wrong) - 1))
                odds, sources = (0.9,) * len(wrong), (1,) * len(wrong)
                return DraftTree(tuple(wrong), parents, odds, sources=sources)
        return EMPTY_TREE

    def learn(self, grpc: Client) -> None:
        """Take the greedy answers to the prompts of these tests."""
        for ids in (grpc.tokenize(PROMPT), grpc.tokenize_chat(MESSAGES)):
            said = grpc.generate(token_ids=ids, max_tokens=40, speculation="off").wait()
            self.sequences.append([*ids, *said.token_ids])


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    drafts = Copycat()
    with (
        host() as loop,
        loop.holding(verifier(drafts)) as (address, _),
        loop.holding(gateway(address)) as front,
        OpenAI(base_url=f"http://{front}/v1", api_key="none", max_retries=0) as openai,
        Client(address) as client,
    ):
        drafts.learn(client)
        yield Served(f"http://{front}", openai, client)


def split(params: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters as OpenAI's client wants them: those it does not know in the body."""
    known = {name: value for name, value in params.items() if name not in EXTRAS}
    return {**known, "extra_body": {name: params[name] for name in EXTRAS & params.keys()}}


@pytest.mark.parametrize("name", PARAMS)
def test_completions_say_what_grpc_says(served: Served, name: str) -> None:
    expected = served.grpc.generate(PROMPT, max_tokens=24, **PARAMS[name]).wait()
    params = {"model": "small", "prompt": PROMPT, "max_tokens": 24, **split(PARAMS[name])}
    whole = served.openai.completions.create(**params)
    chunks = list(served.openai.completions.create(stream=True, **params))
    assert whole.choices[0].text == expected.text
    assert "".join(c.choices[0].text for c in chunks) == expected.text
    assert whole.choices[0].finish_reason == expected.finish_reason
    *reasons, last_reason = [c.choices[0].finish_reason for c in chunks]
    assert (set(reasons) <= {None}, last_reason) == (True, expected.finish_reason)
    assert whole.usage is not None
    assert whole.usage.completion_tokens == expected.usage.num_output_tokens
    assert whole.usage.prompt_tokens == expected.usage.num_prompt_tokens


@pytest.mark.parametrize("name", PARAMS)
def test_chat_says_what_grpc_says(served: Served, name: str) -> None:
    expected = served.grpc.generate(messages=MESSAGES, max_tokens=24, **PARAMS[name]).wait()
    params = {"model": "small", "messages": MESSAGES, "max_tokens": 24, **split(PARAMS[name])}
    whole = served.openai.chat.completions.create(**params)
    chunks = list(served.openai.chat.completions.create(stream=True, **params))
    assert whole.choices[0].message.content == expected.text
    assert whole.choices[0].message.role == chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == expected.text
    assert chunks[-1].choices[0].finish_reason == expected.finish_reason


async def test_the_asynchronous_client_reads_the_same(served: Served) -> None:
    expected = served.grpc.generate(PROMPT, max_tokens=24).wait().text
    params: dict[str, Any] = {"model": "small", "max_tokens": 24, "temperature": 0}
    async with AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none") as openai:
        whole = await openai.completions.create(prompt=PROMPT, **params)
        stream = await openai.completions.create(prompt=PROMPT, stream=True, **params)
        text = "".join([chunk.choices[0].text async for chunk in stream])
        chats = [openai.chat.completions.create(messages=MESSAGES, **params) for _ in range(3)]
        answers = [answer.choices[0].message.content for answer in await asyncio.gather(*chats)]
    assert whole.choices[0].text == text == expected
    assert answers == [served.grpc.generate(messages=MESSAGES, max_tokens=24).wait().text] * 3


def test_token_ids_and_lists_of_prompts_are_answered_in_order(served: Served) -> None:
    def texts(prompt: Any) -> list[str]:
        create = served.openai.completions.create
        answer = create(model="small", prompt=prompt, temperature=0, max_tokens=9)
        assert [choice.index for choice in answer.choices] == list(range(len(answer.choices)))
        return [choice.text for choice in answer.choices]

    from_ids = served.grpc.generate(token_ids=IDS, max_tokens=9).wait().text
    from_text = served.grpc.generate(PROMPT, max_tokens=9).wait().text
    assert texts(IDS) == [from_ids]
    assert texts([IDS, IDS[:2], IDS])[::2] == [from_ids, from_ids]
    assert texts([PROMPT, "a", PROMPT])[::2] == [from_text, from_text]


@pytest.mark.parametrize("seed", [3, (1 << 64) - 1, -1])
def test_each_of_n_choices_has_the_next_seed(served: Served, seed: int) -> None:
    expected = [
        served.grpc.generate(
            PROMPT, max_tokens=12, temperature=1.0, seed=(seed + i) % (1 << 64)
        ).wait()
        for i in range(3)
    ]
    params: dict[str, Any] = {"model": "small", "prompt": PROMPT, "max_tokens": 12}
    whole = served.openai.completions.create(n=3, seed=seed, **params)
    texts = ["", "", ""]
    for chunk in served.openai.completions.create(n=3, seed=seed, stream=True, **params):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert [c.text for c in whole.choices] == texts == [result.text for result in expected]
    assert len(set(texts)) > 1
    assert whole.usage is not None
    assert whole.usage.prompt_tokens == expected[0].usage.num_prompt_tokens
    assert whole.usage.completion_tokens == sum(r.usage.num_output_tokens for r in expected)


def test_the_seed_that_was_drawn_is_reported_and_repeats_the_text(served: Served) -> None:
    params: dict[str, Any] = {"model": "small", "prompt": PROMPT, "max_tokens": 12}
    first = served.openai.completions.create(**params)
    seed = first.model_extra["lookahead"]["seed"]
    again = served.openai.completions.create(seed=seed, **params)
    assert again.choices[0].text == first.choices[0].text


def test_logprobs_are_those_of_grpc_and_their_tokens_spell_the_text(served: Served) -> None:
    expected = served.grpc.generate(PROMPT, max_tokens=12, logprobs=True, top_logprobs=3).wait()
    values = [entry.logprob for entry in expected.logprobs]
    tops = [[top.logprob for top in entry.top] for entry in expected.logprobs]
    params: dict[str, Any] = {"model": "small", "max_tokens": 12, "temperature": 0}
    completion = served.openai.completions.create(prompt=PROMPT, logprobs=3, **params)
    found = completion.choices[0].logprobs
    assert found is not None and found.tokens is not None and found.text_offset is not None
    assert found.token_logprobs == pytest.approx(values)
    assert "".join(found.tokens) == completion.choices[0].text
    assert found.text_offset == [len("".join(found.tokens[:i])) for i in range(12)]
    assert [sorted(top.values()) for top in found.top_logprobs or []] == [
        pytest.approx(sorted(top)) for top in tops
    ]
    stream = served.openai.completions.create(prompt=PROMPT, logprobs=3, stream=True, **params)
    parts = [c.choices[0].logprobs for c in stream if c.choices[0].logprobs]
    assert [offset for part in parts for offset in part.text_offset or []] == found.text_offset
    assert [token for part in parts for token in part.tokens or []] == found.tokens


def test_chat_logprobs_hold_bytes_and_alternatives(served: Served) -> None:
    messages: Any = MESSAGES
    answer = served.openai.chat.completions.create(
        model="small", messages=messages, max_tokens=8, temperature=0, logprobs=True, top_logprobs=2
    )
    expected = served.grpc.generate(messages=MESSAGES, max_tokens=8, logprobs=True).wait()
    found = answer.choices[0].logprobs
    assert found is not None and found.content is not None
    assert [t.logprob for t in found.content] == pytest.approx(
        [entry.logprob for entry in expected.logprobs]
    )
    for token in found.content:
        assert len(token.top_logprobs) == 2
        assert token.bytes is not None
        assert bytes(token.bytes).decode(errors="replace") == token.token
        assert token.logprob <= token.top_logprobs[0].logprob <= 0


def test_the_bytes_of_parts_of_characters_make_the_text(served: Served) -> None:
    smile = served.grpc.tokenize("\N{SLIGHTLY SMILING FACE}", special_tokens=False)
    assert len(smile) > 1
    prompt = list(smile) + list(served.grpc.tokenize("a", special_tokens=False))
    forced = {str(token_id): 100 for token_id in smile[:1]}
    answer = httpx.post(
        f"{served.url}/v1/chat/completions",
        json={"messages": MESSAGES, "max_tokens": 1, "logprobs": True, "logit_bias": forced},
        timeout=20,
    ).json()
    (token,) = answer["choices"][0]["logprobs"]["content"]
    assert token["token"] == "\ufffd"
    part = bytes(token["bytes"])
    assert part and "\N{SLIGHTLY SMILING FACE}".encode().startswith(part)
    echoed = served.openai.completions.create(
        model="small", prompt=prompt, max_tokens=0, echo=True, logprobs=0
    ).choices[0]
    assert echoed.text == "\N{SLIGHTLY SMILING FACE}a"


@pytest.mark.parametrize("max_tokens", [0, 1, 5])
@pytest.mark.parametrize("as_ids", [False, True])
def test_an_echo_has_the_prompts_log_probabilities(
    served: Served, max_tokens: int, as_ids: bool
) -> None:
    ids = list(served.grpc.tokenize(PROMPT))
    prompt: Any = ids if as_ids else PROMPT
    params: dict[str, Any] = {"model": "small", "prompt": prompt, "temperature": 0, "echo": True}
    create = served.openai.completions.create
    answer = create(max_tokens=max_tokens, logprobs=2, **params)
    choice = answer.choices[0]
    assert choice.text.startswith(PROMPT)
    assert answer.usage is not None and answer.usage.completion_tokens == max_tokens
    found = choice.logprobs
    assert found is not None and found.token_logprobs is not None and found.top_logprobs is not None
    assert len(found.token_logprobs) == len(ids) + max_tokens == len(found.top_logprobs)
    # The first token, a special one, follows nothing and takes no room in the text.
    values: list[Any] = list(found.token_logprobs)
    assert values[0] is None and found.top_logprobs[0] is None
    assert all(value <= max(top.values()) for value, top in zip(
        values[1:], found.top_logprobs[1:], strict=True
    ))  # fmt: skip
    assert found.tokens is not None and found.text_offset is not None
    assert found.text_offset[:2] == [0, 0]
    assert "".join(found.tokens[1:]) == choice.text
    bare = create(max_tokens=max_tokens, **params).choices[0]
    assert (bare.text, bare.logprobs) == (choice.text, None)


def test_an_echo_says_what_generating_said(served: Served) -> None:
    said = served.grpc.generate(PROMPT, max_tokens=10, logprobs=True).wait()
    ids = [*served.grpc.tokenize(PROMPT), *said.token_ids]
    found = served.openai.completions.create(
        model="small", prompt=ids, max_tokens=0, echo=True, logprobs=0
    ).choices[0].logprobs  # fmt: skip
    assert found is not None and found.token_logprobs is not None
    assert found.token_logprobs[-10:] == [entry.logprob for entry in said.logprobs]


def test_prompt_log_probabilities_are_as_vllm_writes_them(served: Served) -> None:
    ids = list(served.grpc.tokenize(PROMPT))
    body = {"prompt": [PROMPT, "an apple"], "max_tokens": 1, "prompt_logprobs": 2, "n": 2}
    answer = httpx.post(f"{served.url}/v1/completions", json=body, timeout=20).json()
    first, same, other, _ = (choice["prompt_logprobs"] for choice in answer["choices"])
    assert first == same != other
    assert answer["choices"][0]["logprobs"] is None
    assert not answer["choices"][0]["text"].startswith(PROMPT)
    assert first[0] is None and len(first) == len(ids)
    for token_id, entry in zip(ids[1:], first[1:], strict=True):
        own = entry[str(token_id)]
        assert own["decoded_token"] in PROMPT
        ranks = sorted(found["rank"] for found in entry.values())
        assert ranks == ([1, 2] if own["rank"] <= 2 else [1, 2, own["rank"]])
        assert max(entry.values(), key=lambda found: found["logprob"])["rank"] == 1


def test_usage_of_a_stream_comes_last_and_only_when_asked_for(served: Served) -> None:
    params: dict[str, Any] = {
        "model": "small",
        "prompt": PROMPT,
        "max_tokens": 12,
        "temperature": 0,
        "stream": True,
    }
    without = list(served.openai.completions.create(**params))
    assert all(chunk.usage is None and chunk.choices for chunk in without)
    *chunks, last = served.openai.completions.create(
        stream_options={"include_usage": True}, **params
    )
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == 12
    assert last.usage.total_tokens == 12 + last.usage.prompt_tokens


def test_what_drafting_did_is_told_with_the_answer(served: Served) -> None:
    params: dict[str, Any] = {"model": "small", "prompt": PROMPT, "max_tokens": 40}
    answer = served.openai.completions.create(
        temperature=0, extra_body={"lookahead": {"mode": "tree"}}, **params
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens_details is None  # no prediction was given
    did = answer.model_extra["lookahead"]
    assert did["num_accepted_tokens"] > 0
    assert did["num_accepted_tokens"] == sum(did["accepted_by_source"].values())
    num_decoded = answer.usage.completion_tokens - 1
    # Each step adds one token of its own, but for one that ends in the middle of a draft.
    assert did["num_steps"] + did["num_accepted_tokens"] - num_decoded in (0, 1)
    assert did["tokens_per_step"] == pytest.approx(num_decoded / did["num_steps"], abs=1e-3)
    assert math.isclose(sum(did["accept_len_histogram"]), did["num_steps"])
    plain = served.openai.completions.create(
        temperature=0, extra_body={"lookahead": {"mode": "off"}}, **params
    )
    assert plain.model_extra["lookahead"]["num_draft_tokens"] == 0
    assert plain.choices[0].text == answer.choices[0].text


def test_fields_without_effect_are_named(served: Served) -> None:
    params: dict[str, Any] = {"model": "small", "prompt": PROMPT, "max_tokens": 4}
    old = {"lookahead": {"exactness": "exact", "mode": "off"}}
    answer = served.openai.completions.create(**params, extra_body=old)
    assert answer.model_extra["lookahead"]["ignored"] == ["lookahead.exactness"]
    options: Any = {"include_usage": True}
    *_, last = served.openai.completions.create(
        **params, extra_body=old, stream=True, stream_options=options
    )
    assert last.model_extra["lookahead"]["ignored"] == ["lookahead.exactness"]
    answer = served.openai.completions.create(**params, extra_body={"lookahead": {"mode": "off"}})
    assert "ignored" not in answer.model_extra["lookahead"]


def test_accepted_prediction_tokens_are_told_with_a_prediction_only(served: Served) -> None:
    messages: Any = MESSAGES
    answer = served.openai.chat.completions.create(
        model="small",
        messages=messages,
        max_tokens=40,
        temperature=0,
        prediction={"type": "content", "content": [{"type": "text", "text": "say héllo"}]},
    )
    assert answer.usage is not None and answer.usage.completion_tokens_details is not None
    accepted = answer.usage.completion_tokens_details.accepted_prediction_tokens
    assert accepted == answer.model_extra["lookahead"]["accepted_by_source"]["local"] > 0


def test_the_model_is_listed_and_found_by_its_name(served: Served) -> None:
    assert [model.id for model in served.openai.models.list()] == ["small"]
    described = served.openai.models.retrieve("small").model_extra
    assert described["max_model_len"] == 250
    assert (
        bool(described["lookahead"]["not_bitwise_reason"]) is not described["lookahead"]["bitwise"]
    )


def test_tokenize_and_detokenize_are_those_of_grpc(served: Served) -> None:
    def post(path: str, **body: Any) -> Any:
        return httpx.post(f"{served.url}{path}", json=body).raise_for_status().json()

    ids = served.grpc.tokenize(PROMPT)
    found = post("/tokenize", prompt=PROMPT)
    assert found == {"tokens": ids, "count": len(ids), "max_model_len": 250}
    assert post("/tokenize", prompt=PROMPT, add_special_tokens=False)["tokens"] == ids[1:]
    assert post("/tokenize", messages=MESSAGES)["tokens"] == served.grpc.tokenize_chat(MESSAGES)
    assert post("/detokenize", tokens=ids[1:]) == {"prompt": PROMPT}
    shown = post("/detokenize", tokens=ids)["prompt"]
    assert shown == served.grpc.detokenize(ids, special_tokens=True) != PROMPT
    assert post("/detokenize", tokens=ids, skip_special_tokens=True) == {"prompt": PROMPT}


def test_a_ready_gateway_says_so(served: Served) -> None:
    assert httpx.get(f"{served.url}/health").json() == {"status": "ok"}
    assert httpx.get(f"{served.url}/ready").json() == {"status": "ready"}


def test_what_the_context_has_no_room_for_is_cut_or_said_with_the_numbers(served: Served) -> None:
    def ask(**fields: Any) -> httpx.Response:
        body = {"prompt": PROMPT, "temperature": 0, **fields}
        return httpx.post(f"{served.url}/v1/completions", json=body, timeout=60)

    cut = ask(max_tokens=8192, ignore_eos=True)
    assert cut.status_code == 200
    usage = cut.json()["usage"]
    assert usage["total_tokens"] == 250 and cut.json()["choices"][0]["finish_reason"] == "length"
    error = ask(prompt=[5] * 400).json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "prompt")
    assert "249" in error["message"] and "400" in error["message"]


def test_limits_that_other_servers_take_are_taken(served: Served) -> None:
    greedy = served.grpc.generate(PROMPT, max_tokens=12).wait().text
    body = {"prompt": PROMPT, "max_tokens": 12, "temperature": 1, "seed": 2}
    for fields in ({"top_p": 0}, {"top_k": 1, "stop": [f"~{i}~" for i in range(32)]}):
        answer = httpx.post(f"{served.url}/v1/completions", json={**body, **fields}, timeout=60)
        assert answer.json()["choices"][0]["text"] == greedy
    wide = httpx.post(f"{served.url}/v1/completions", json={**body, "top_k": 1 << 30}, timeout=60)
    everything = httpx.post(f"{served.url}/v1/completions", json=body, timeout=60)
    assert wide.json()["choices"] == everything.json()["choices"]
