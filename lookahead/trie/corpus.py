"""Reads files for a memory to learn: text files, and JSONL with texts or token ids."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# A piece of a text file that goes to the tokenizer at once: small enough for one message.
MAX_PIECE_CHARS = 1 << 16
MAX_TOKEN_IDS = 1 << 16


@dataclass(frozen=True, slots=True)
class Piece:
    """A text, or ids where the file has them, and how many bytes of the file it took."""

    num_bytes: int
    text: str = ""
    token_ids: tuple[int, ...] = ()


def read_pieces(path: Path, max_chars: int = MAX_PIECE_CHARS) -> Iterator[Piece]:
    """Yield what a file holds, texts in pieces of at most `max_chars`.

    ValueError names the file and the line that is wrong.
    """
    read = _jsonl_pieces if path.suffix in (".jsonl", ".ndjson") else _text_pieces
    try:
        yield from read(path, max_chars)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text: {error}") from error


def _text_pieces(path: Path, max_chars: int) -> Iterator[Piece]:
    """Cut a text at line ends where possible."""
    with path.open(encoding="utf-8", newline="") as file:
        held = ""
        while block := file.read(max_chars):
            held += block
            cut = held.rfind("\n", 0, max_chars) + 1 or max_chars
            while len(held) > max_chars:
                yield _text_piece(held[:cut])
                held = held[cut:]
                cut = held.rfind("\n", 0, max_chars) + 1 or max_chars
        if held:
            yield _text_piece(held)


def _text_piece(text: str) -> Piece:
    return Piece(len(text.encode()), text=text)


def _jsonl_pieces(path: Path, max_chars: int) -> Iterator[Piece]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield from _parse(line, max_chars)
            except (ValueError, TypeError) as error:
                raise ValueError(f"{path}:{number}: {error}") from error


def _parse(line: bytes, max_chars: int) -> Iterator[Piece]:
    """Turn one line into pieces: {"text": …}, {"token_ids": […]} or a string."""
    found = json.loads(line)
    if isinstance(found, str):
        found = {"text": found}
    if not isinstance(found, dict) or not {"text", "token_ids"} & found.keys():
        raise ValueError('not an object with "text" or "token_ids"')
    if "token_ids" in found:
        yield from _id_pieces(found["token_ids"], len(line))
        return
    text = found["text"]
    if not isinstance(text, str):
        raise ValueError(f'"text" is {type(text).__name__}, not a string')
    text.encode()  # JSON can spell halves of characters, which no tokenizer takes
    for start in range(0, max(1, len(text)), max_chars):
        yield Piece(0 if start else len(line), text=text[start : start + max_chars])


def _id_pieces(token_ids: object, num_bytes: int) -> Iterator[Piece]:
    if not isinstance(token_ids, list) or not all(type(token) is int for token in token_ids):
        raise ValueError('"token_ids" is not a list of integers')
    bad = [token for token in token_ids if not 0 <= token < (1 << 31) - 1]
    if bad:
        raise ValueError(f'"token_ids" contains {bad[0]}, which is not a token id')
    for start in range(0, max(1, len(token_ids)), MAX_TOKEN_IDS):
        piece = tuple(token_ids[start : start + MAX_TOKEN_IDS])
        yield Piece(0 if start else num_bytes, token_ids=piece)
