"""The bytes that each token of a vocabulary spells, read off the tokenizer's own description.

Asking a tokenizer library for them means building a second tokenizer from JSON, which takes
seconds for a large vocabulary and holds up every other Python thread.
"""

import json
from collections.abc import Collection, Sequence
from typing import Any

from verifier.constraints.constraint import ConstraintError
from verifier.text.detokenizer import BYTE_TOKEN, byte_alphabet


def spelled(tokens: Sequence[str], added_ids: Collection[int], decoder: str) -> list[bytes]:
    """Bytes of each token by id; b"" where an id has no token, or one that no text can hold.

    `tokens`: their names by id; `added_ids`: those whose name is their text; `decoder`: the Rust
    decoder as JSON. Raises ConstraintError where tokens are not made of bytes.
    """
    steps = _steps(json.loads(decoder) if decoder else {})
    kinds = {step.get("type") for step in steps}
    if "ByteLevel" in kinds:
        names = _from_alphabet(tokens)
    elif "ByteFallback" in kinds:
        names = _from_pieces(tokens, _spaces(steps))
    else:
        kind = ", ".join(sorted(map(str, kinds - {None}))) or "none"
        raise ConstraintError(
            f"not possible with this model's tokenizer, whose tokens are not bytes: decoder {kind}"
        )
    for token_id in added_ids:
        names[token_id] = tokens[token_id].encode()
    # No text holds the byte 0xFF, and to llguidance it marks a special token.
    return [b"" if b"\xff" in name else name for name in names]


def _steps(decoder: dict[str, Any]) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = decoder.get("decoders", [decoder])
    return steps


def _spaces(steps: list[dict[str, Any]]) -> list[str]:
    """What stands for a space in the tokens' names."""
    replaced = [s for s in steps if s.get("type") == "Replace" and s.get("content") == " "]
    return [s["pattern"]["String"] for s in replaced if "String" in s.get("pattern", {})]


def _from_alphabet(tokens: Sequence[str]) -> list[bytes]:
    # Byte b as the character b: one fast pass over each name.
    table = {ord(char): chr(byte) for char, byte in byte_alphabet().items()}
    return [_from_latin(token.translate(table), token) for token in tokens]


def _from_latin(translated: str, token: str) -> bytes:
    try:
        return translated.encode("latin-1")
    except UnicodeEncodeError:
        return token.encode()  # outside the alphabet it stands for itself


def _from_pieces(tokens: Sequence[str], spaces: list[str]) -> list[bytes]:
    names = list(tokens)
    for space in spaces:
        names = [name.replace(space, " ") for name in names]
    return [
        bytes([int(token[3:5], 16)]) if BYTE_TOKEN.fullmatch(token) else name.encode()
        for token, name in zip(tokens, names, strict=True)
    ]
