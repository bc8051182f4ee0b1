"""Text deltas add up to the decoding of all ids, whatever the ids and the tokenizer."""

import random

import pytest

from tests.support.models.small_tokenizers import EXACT_KINDS, KINDS, small_tokenizer
from verifier.text.detokenizer import (
    BYTE_TOKEN,
    REPLACEMENT,
    ByteLevelDetokenizer,
    PieceDetokenizer,
    WindowDetokenizer,
    byte_alphabet,
)

KIND_CLASSES = {
    "byte_level": ByteLevelDetokenizer,
    "llama": PieceDetokenizer,
    "gemma": PieceDetokenizer,
    "wordpiece": PieceDetokenizer,
    "bare": PieceDetokenizer,
    "suffix": WindowDetokenizer,
}


def byte_ids(kind: str) -> list[int]:
    """Ids that are single bytes, or may be cut inside a character."""
    tokenizer = small_tokenizer(kind)
    names = [(tokenizer._backend.convert_ids_to_tokens(i), i) for i in range(tokenizer.size)]
    return [i for name, i in names if BYTE_TOKEN.fullmatch(name) or len(name) == 1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("special_tokens", [False, True])
def test_each_kind_of_tokenizer_gets_its_detokenizer(kind: str, special_tokens: bool) -> None:
    detokenizer = small_tokenizer(kind).detokenizer(special_tokens=special_tokens)
    assert type(detokenizer) is KIND_CLASSES[kind]


@pytest.mark.parametrize("kind", EXACT_KINDS)
@pytest.mark.parametrize("special_tokens", [False, True])
def test_deltas_add_up_to_the_decoding_of_random_ids(kind: str, special_tokens: bool) -> None:
    tokenizer, rng = small_tokenizer(kind), random.Random(7)
    odd = byte_ids(kind) + sorted(tokenizer.special_ids)
    for _ in range(2000):
        share = rng.random()
        ids = [
            rng.choice(odd) if rng.random() < share else rng.randrange(tokenizer.size)
            for _ in range(rng.randrange(1, 16))
        ]
        detokenizer = tokenizer.detokenizer(special_tokens=special_tokens)
        text = "".join([*map(detokenizer.push, ids), detokenizer.flush()])
        assert text == tokenizer.decode(ids, special_tokens=special_tokens)


@pytest.mark.parametrize("kind", EXACT_KINDS)
def test_every_prefix_flushes_as_its_own_decoding(kind: str) -> None:
    tokenizer = small_tokenizer(kind)
    ids = tokenizer.encode("say 日本語 🙂🙃 naïve wörld\n\n ok")
    for length in range(1, len(ids) + 1):
        detokenizer = tokenizer.detokenizer(special_tokens=False)
        text = "".join([*map(detokenizer.push, ids[:length]), detokenizer.flush()])
        assert text == tokenizer.decode(ids[:length])


@pytest.mark.parametrize("kind", ["byte_level", "llama", "gemma"])
def test_deltas_never_hold_half_a_character(kind: str) -> None:
    tokenizer = small_tokenizer(kind)
    text = "🙂🙃 日本語 ñandú 한글"
    detokenizer = tokenizer.detokenizer(special_tokens=False)
    ids = tokenizer.encode(text, special_tokens=False)
    deltas = [detokenizer.push(token_id) for token_id in ids]
    assert not any(REPLACEMENT in delta for delta in deltas)
    assert "".join(deltas) + detokenizer.flush() == text
    assert len(ids) > len(text)


@pytest.mark.parametrize("kind", KINDS)
def test_text_is_streamed_as_it_comes(kind: str) -> None:
    tokenizer = small_tokenizer(kind)
    ids = tokenizer.encode("the quick brown fox jumps over the lazy dog", special_tokens=False)
    detokenizer = tokenizer.detokenizer(special_tokens=False)
    deltas = [detokenizer.push(token_id) for token_id in ids]
    # A rare letter may be a byte token, and a byte at the end waits for its run.
    assert "".join(deltas) + detokenizer.flush() == tokenizer.decode(ids)
    assert sum(map(bool, deltas)) > len(ids) // 2


def test_pending_shows_whole_characters_of_a_byte_run_only() -> None:
    tokenizer = small_tokenizer("gemma")
    seen = []
    detokenizer = tokenizer.detokenizer(special_tokens=False)
    for byte in "\n🙂".encode():
        token_id = tokenizer._backend.convert_tokens_to_ids(f"<0x{byte:02X}>")
        assert detokenizer.push(token_id) == ""
        seen.append(detokenizer.pending())
    assert seen == ["\n", "", "", "", "\n🙂"]
    assert detokenizer.flush() == "\n🙂"
    assert detokenizer.pending() == ""


def test_a_hidden_special_token_does_not_end_a_run_of_bytes() -> None:
    tokenizer = small_tokenizer("llama")
    ids = [tokenizer._backend.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in "é".encode()]
    ids.insert(1, tokenizer._backend.convert_tokens_to_ids("</s>"))
    detokenizer = tokenizer.detokenizer(special_tokens=False)
    assert "".join(map(detokenizer.push, ids)) + detokenizer.flush() == "é"


@pytest.mark.parametrize("kind", KINDS)
def test_ids_past_the_tokenizers_own_show_nothing(kind: str) -> None:
    tokenizer = small_tokenizer(kind)
    ids = [*tokenizer.encode("fox", special_tokens=False), tokenizer.size + 5]
    detokenizer = tokenizer.detokenizer(special_tokens=False)
    text = "".join([*map(detokenizer.push, ids), detokenizer.flush()])
    assert text == tokenizer.decode(ids) == "fox"


def test_the_byte_alphabet_names_every_byte_once() -> None:
    assert sorted(byte_alphabet().values()) == list(range(256))
