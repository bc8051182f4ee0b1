"""What tokens spell agrees with llguidance's own reading of the tokenizer's description."""

import pytest
from llguidance import LLTokenizer

from tests.support.models.small_tokenizers import SPECIAL, small_tokenizer
from verifier.constraints.constraint import ConstraintError
from verifier.text.token_bytes import spelled
from verifier.text.tokenizer import Tokenizer


def names_of(tokenizer: Tokenizer) -> list[bytes]:
    added = frozenset(tokenizer._backend.added_tokens_decoder)
    return spelled(tokenizer._tokens, added, tokenizer.decoder_description)


@pytest.mark.parametrize("kind", ["byte_level", "llama", "gemma"])
def test_every_token_spells_what_llguidance_reads_in_the_description(kind: str) -> None:
    tokenizer = small_tokenizer(kind)
    eos = sorted(tokenizer.eos_token_ids)
    judge = LLTokenizer(tokenizer._rust.to_str(), n_vocab=tokenizer.size, eos_token=eos)
    for token_id, name in enumerate(names_of(tokenizer)):
        assert judge.decode_bytes([token_id]) == name, token_id


@pytest.mark.parametrize("kind", ["byte_level", "llama", "gemma"])
def test_spelled_tokens_of_a_text_make_the_text(kind: str) -> None:
    tokenizer = small_tokenizer(kind)
    names = names_of(tokenizer)
    text = "the quick brown fox: héllo\nwörld 🙂"
    ids = tokenizer.encode(text, special_tokens=False)
    assert b"".join(names[i] for i in ids).decode().removeprefix(" ") == text


def test_an_id_without_a_token_spells_nothing() -> None:
    assert spelled(["a", "", "Ġb"], (), '{"type":"ByteLevel"}') == [b"a", b"", b" b"]


def test_a_byte_that_no_text_holds_spells_nothing() -> None:
    decoder = '{"type":"Sequence","decoders":[{"type":"ByteFallback"}]}'
    assert spelled(["<0xFE>", "<0xFF>", "a"], (), decoder) == [b"\xfe", b"", b"a"]


def test_added_tokens_spell_their_names_even_in_the_alphabet_of_bytes() -> None:
    assert spelled(["Ġ", "Ġ"], [1], '{"type":"ByteLevel"}') == [b" ", "Ġ".encode()]


@pytest.mark.parametrize("decoder", ["", '{"type":"WordPiece","prefix":"##"}'])
def test_tokens_that_are_not_bytes_are_refused(decoder: str) -> None:
    with pytest.raises(ConstraintError, match="whose tokens are not bytes: decoder"):
        spelled(SPECIAL, (), decoder)
