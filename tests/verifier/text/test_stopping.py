"""One emit path: where an output ends, why, and what text it shows, token by token."""

import random
from dataclasses import replace
from typing import Any

import pytest

from tests.support.models.small_tokenizers import small_tokenizer
from verifier.text.stopping import Finish, FinishReason, Output, StoppingParams

PLAIN = StoppingParams(max_tokens=1000)


class WordDetokenizer:
    """Ids stand for words given beforehand."""

    def __init__(self, words: list[str]) -> None:
        self._words = words

    def push(self, token_id: int) -> str:
        return self._words[token_id]

    def pending(self) -> str:
        return ""

    def flush(self) -> str:
        return ""


def run(words: list[str], params: StoppingParams) -> tuple[str, list[int], Finish | None]:
    """Emit the words until the end; return text, ids, finish."""
    output, finish, text = Output(WordDetokenizer(words), params), None, ""
    for token_id in range(len(words)):
        finish = output.push(token_id, is_drafted=False)
        text += output.take_text()[0]
        if finish is not None:
            break
    return text + output.flush(), list(range(output.num_tokens)), finish


@pytest.mark.parametrize(
    ("fields", "text", "num_ids"),
    [
        ({}, "a wo", 2),
        ({"include_stop_string": True}, "a wo<end>", 2),
        ({"stop_strings": ("word",)}, "a wo", 2),  # what was held back is certain then
        ({"min_tokens": 3}, "a word", 4),  # it came too early
    ],
)
def test_a_hidden_token_ends_the_output_where_it_is_a_stop_string(
    fields: dict[str, Any], text: str, num_ids: int
) -> None:
    params = replace(PLAIN, stop_tokens={1: "<end>"}, max_tokens=4, **fields)
    found, ids, finish = run(["a wo", "", "r", "d"], params)
    assert (found, len(ids)) == (text, num_ids)
    assert finish is not None
    if num_ids == 2:
        assert finish == Finish(FinishReason.STOP, stop_string="<end>")


def naive_run(words: list[str], params: StoppingParams) -> tuple[str, list[int], Finish | None]:
    """The same by looking at the whole text after each token."""
    text = ""
    for i, word in enumerate(words):
        ids = list(range(i + 1))
        if i in params.ending_ids:
            return text, ids, Finish(FinishReason.STOP, stop_token_id=i)
        past_len, text = len(text), text + word
        if i + 1 >= params.min_tokens:
            stops = [
                (start, -len(s), s)
                for s in params.stop_strings
                for start in range(len(text))
                if text.startswith(s, start) and start + len(s) > past_len
            ]
            if stops:
                start, _, stop = min(stops)
                end = start + len(stop) if params.include_stop_string else start
                return text[:end], ids, Finish(FinishReason.STOP, stop_string=stop)
        if i + 1 == params.max_tokens:
            return text, ids, Finish(FinishReason.LENGTH)
    return text, list(range(len(words))), None


def test_any_output_ends_as_the_naive_search_says() -> None:
    rng = random.Random(3)

    def words(count: int, longest: int) -> list[str]:
        return ["".join(rng.choices("ab.", k=rng.randint(0, longest))) for _ in range(count)]

    for _ in range(4000):
        num_tokens = rng.randint(1, 12)
        params = StoppingParams(
            max_tokens=rng.randint(1, 14),
            min_tokens=rng.choice([0, 0, 1, 3, 6]),
            stop_strings=tuple(word for word in words(rng.randint(0, 3), 5) if word),
            stop_token_ids=frozenset(rng.sample(range(20), rng.randint(0, 2))),
            eos_token_ids=frozenset(rng.sample(range(20), rng.randint(0, 1))),
            include_stop_string=rng.random() < 0.5,
        )
        texts = words(num_tokens, 4)
        assert run(texts, params) == naive_run(texts, params), (texts, params)


@pytest.mark.parametrize("cut", range(1, 5))
def test_a_stop_string_across_tokens_is_found_and_never_shown(cut: int) -> None:
    params = replace(PLAIN, stop_strings=("STOP!",))
    output = Output(WordDetokenizer(["so ", "STOP!"[:cut], "STOP!"[cut:] + " more"]), params)
    assert output.push(0, is_drafted=False) is None
    assert output.push(1, is_drafted=False) is None
    assert output.take_text() == ("so ", 0)
    assert output.push(2, is_drafted=False) == Finish(FinishReason.STOP, stop_string="STOP!")
    assert output.take_text()[0] + output.flush() == ""


def test_text_that_turns_out_to_be_no_stop_string_is_released() -> None:
    params = replace(PLAIN, stop_strings=("\n\nUser:",))
    output = Output(WordDetokenizer(["hi\n", "\nUs", "ed"]), params)
    texts = []
    for token_id in range(3):
        assert output.push(token_id, is_drafted=False) is None
        texts.append(output.take_text()[0])
    assert texts == ["hi", "", "\n\nUsed"]


def test_held_back_text_comes_out_at_the_length_cap() -> None:
    params = replace(PLAIN, max_tokens=1, stop_strings=("abc",))
    assert run(["xab"], params) == ("xab", [0], Finish(FinishReason.LENGTH))


def test_an_ending_id_beats_the_length_cap_and_shows_no_text() -> None:
    params = replace(PLAIN, max_tokens=2, eos_token_ids=frozenset({1}))
    assert run(["a", "</s>"], params) == ("a", [0, 1], Finish(FinishReason.STOP, stop_token_id=1))


def test_a_stop_string_beats_the_length_cap() -> None:
    params = replace(PLAIN, max_tokens=2, stop_strings=("b",))
    assert run(["a", "b"], params) == ("a", [0, 1], Finish(FinishReason.STOP, stop_string="b"))


@pytest.mark.parametrize("drafted", range(4))
def test_the_drafted_head_of_a_runs_text_is_counted(drafted: int) -> None:
    output = Output(WordDetokenizer(["one ", "two ", "three "]), PLAIN)
    for token_id in range(3):
        output.push(token_id, is_drafted=token_id < drafted)
    text, drafted_len = output.take_text()
    assert text[:drafted_len] == "".join(["one ", "two ", "three "][:drafted])
    # The next run starts afresh.
    output.push(0, is_drafted=True)
    assert output.take_text() == ("one ", 4)


@pytest.mark.parametrize("kind", ["byte_level", "llama", "gemma"])
@pytest.mark.parametrize("include", [False, True])
def test_stop_strings_are_found_at_once_in_real_vocabularies(kind: str, include: bool) -> None:
    tokenizer = small_tokenizer(kind)
    text, stop = "fox héllo 日本\nwörld 🙂 end", "本\nwö"
    ids = tokenizer.encode(text, special_tokens=False)
    params = replace(PLAIN, stop_strings=(stop,), include_stop_string=include)
    output = Output(tokenizer.detokenizer(special_tokens=False), params)
    shown, finish = "", None
    for token_id in ids:
        finish = output.push(token_id, is_drafted=False)
        shown += output.take_text()[0]
        if finish is not None:
            break
    shown += output.flush()
    assert finish == Finish(FinishReason.STOP, stop_string=stop)
    # The last id is the very one that completed the stop string.
    emitted = ids[: output.num_tokens]
    assert stop in tokenizer.decode(emitted)
    assert stop not in tokenizer.decode(emitted[:-1])
    before = text[: text.index(stop)]
    assert shown == (before + stop if include else before)


def test_output_cut_inside_a_character_reads_as_its_decoding() -> None:
    tokenizer = small_tokenizer("byte_level")
    ids = tokenizer.encode("🙂", special_tokens=False)
    for length in range(1, len(ids) + 1):
        output = Output(
            tokenizer.detokenizer(special_tokens=False), replace(PLAIN, max_tokens=length)
        )
        finishes = [output.push(token_id, is_drafted=False) for token_id in ids[:length]]
        assert finishes[-1] == Finish(FinishReason.LENGTH)
        assert output.take_text()[0] + output.flush() == tokenizer.decode(ids[:length])


@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_a_stop_string_that_ends_in_byte_tokens_is_found_at_once(kind: str) -> None:
    tokenizer = small_tokenizer(kind)
    stop = "\n🙂"
    spelled = [tokenizer._backend.convert_tokens_to_ids(f"<0x{b:02X}>") for b in stop.encode()]
    ids = [*tokenizer.encode("fox", special_tokens=False), *spelled]
    params = replace(PLAIN, stop_strings=(stop,), max_tokens=len(ids))
    output = Output(tokenizer.detokenizer(special_tokens=False), params)
    finishes = [output.push(token_id, is_drafted=False) for token_id in ids]
    assert finishes == [None] * (len(ids) - 1) + [Finish(FinishReason.STOP, stop_string=stop)]
    assert output.take_text()[0] + output.flush() == "fox"
