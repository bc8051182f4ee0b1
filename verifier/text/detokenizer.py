"""Incremental detokenization: text deltas whose concatenation is the decoding of all ids.

Three kinds of vocabularies. Byte-level: tokens are bytes, decoded as UTF-8. Pieces: each token has
a text of its own, apart from byte-fallback tokens, whole runs of which are decoded together.
Anything else: the difference between decodings of a short window with and without the new token.
A probe picks the first that reproduces the tokenizer's own decoding (`detokenizer_for`).
"""

import codecs
import random
import re
from collections.abc import Callable, Sequence
from typing import Protocol

REPLACEMENT = "\ufffd"
BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
NUM_PROBES = 300


class Codec(Protocol):
    """A tokenizer's decoding, special tokens shown or hidden."""

    @property
    def has_byte_level(self) -> bool:
        """Tokens spell bytes in GPT-2's alphabet."""
        ...

    @property
    def has_byte_fallback(self) -> bool:
        """Tokens such as <0x0A> are single bytes."""
        ...

    @property
    def tokens(self) -> Sequence[str]:
        """By id; "" where an id has no token."""
        ...

    @property
    def hidden_ids(self) -> frozenset[int]:
        """Ids left out before decoding."""
        ...

    def decode(self, token_ids: list[int]) -> str:
        """The text of the ids."""
        ...


class Detokenizer(Protocol):
    """The text of one growing list of ids."""

    def push(self, token_id: int) -> str:
        """Add a token; return the text that became certain, perhaps none."""
        ...

    def pending(self) -> str:
        """The text held back, were it the end; none where it is cut inside a character."""
        ...

    def flush(self) -> str:
        """Return the text held back, at the end; a truncated character reads as U+FFFD."""
        ...


Maker = Callable[[], Detokenizer]


def detokenizer_for(codec: Codec) -> Maker:
    """Return what makes a detokenizer for each output of this tokenizer."""
    makers: list[Maker] = []
    if codec.has_byte_level:
        byte_tokens = ByteTokens(codec)
        makers.append(lambda: ByteLevelDetokenizer(byte_tokens))
    pieces = Pieces(codec)
    makers.append(lambda: PieceDetokenizer(pieces))
    return next((m for m in makers if _is_right(m, codec)), lambda: WindowDetokenizer(codec))


def _is_right(make: Maker, codec: Codec) -> bool:
    rng = random.Random(0)
    vocabulary = range(len(codec.tokens))
    odd = [i for i, token in enumerate(codec.tokens) if BYTE_TOKEN.fullmatch(token)]
    odd += sorted(codec.hidden_ids) or [0]
    for _ in range(NUM_PROBES):
        share = rng.random()
        ids = [
            rng.choice(odd if rng.random() < share else vocabulary)
            for _ in range(rng.randint(1, 10))
        ]
        detokenizer = make()
        text = "".join([*map(detokenizer.push, ids), detokenizer.flush()])
        if text != codec.decode(ids):
            return False
    return True


class ByteTokens:
    """The bytes of each token of a byte-level vocabulary."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._alphabet = byte_alphabet()
        self._known: dict[int, bytes] = dict.fromkeys(codec.hidden_ids, b"")

    def __getitem__(self, token_id: int) -> bytes:
        found = self._known.get(token_id)
        if found is None:
            found = self._known[token_id] = self._spelled(token_id)
        return found

    def _spelled(self, token_id: int) -> bytes:
        token = self._codec.tokens[token_id] if token_id < len(self._codec.tokens) else ""
        try:
            return bytes(self._alphabet[char] for char in token)
        except KeyError:
            return token.encode()  # an added token outside the alphabet stands for itself


def byte_alphabet() -> dict[str, int]:
    """GPT-2's printable character for each byte, the other way round."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(256 + i): byte for i, byte in enumerate(others)}


class ByteLevelDetokenizer:
    """Decodes UTF-8 byte by byte; at most three bytes wait."""

    def __init__(self, tokens: ByteTokens) -> None:
        self._tokens = tokens
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        return self._utf8.decode(self._tokens[token_id])

    def pending(self) -> str:
        return ""

    def flush(self) -> str:
        return self._utf8.decode(b"", final=True)


class Pieces:
    """The text of each token of a vocabulary where it does not depend on the neighbours."""

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self._known: dict[int, str] = dict.fromkeys(codec.hidden_ids, "")
        # A token's text inside an output is what it adds after some ordinary token.
        shown = (i for i in range(len(codec.tokens)) if i not in codec.hidden_ids)
        self._anchor = next((i for i in shown if codec.tokens[i].isalpha()), 0)
        self._anchor_len = len(codec.decode([self._anchor]))

    def is_byte(self, token_id: int) -> bool:
        """Whether the token is decoded together with the bytes around it."""
        if not self.codec.has_byte_fallback or token_id >= len(self.codec.tokens):
            return False
        return BYTE_TOKEN.fullmatch(self.codec.tokens[token_id]) is not None

    def inside(self, token_id: int) -> str:
        """The token's text anywhere but at the beginning."""
        found = self._known.get(token_id)
        if found is None:
            found = self._known[token_id] = self.run([token_id], is_first=False)
        return found

    def run(self, token_ids: list[int], *, is_first: bool) -> str:
        """The text of a run of tokens; a beginning may lose its leading space."""
        if is_first:
            return self.codec.decode(token_ids)
        return self.codec.decode([self._anchor, *token_ids])[self._anchor_len :]


class PieceDetokenizer:
    """Gives out each token's own text; bytes wait until another kind of token ends their run."""

    def __init__(self, pieces: Pieces) -> None:
        self._pieces = pieces
        self._bytes: list[int] = []
        self._is_first = True

    def push(self, token_id: int) -> str:
        if token_id in self._pieces.codec.hidden_ids:
            return ""  # as if it were not there: it does not even end a run of bytes
        if self._pieces.is_byte(token_id):
            self._bytes.append(token_id)
            return ""
        text = self.flush()
        if self._is_first:
            text += self._pieces.run([token_id], is_first=True)
        else:
            text += self._pieces.inside(token_id)
        self._is_first = False
        return text

    def pending(self) -> str:
        if not self._bytes:
            return ""
        text = self._pieces.run(self._bytes, is_first=self._is_first)
        return "" if text.endswith(REPLACEMENT) else text

    def flush(self) -> str:
        if not self._bytes:
            return ""
        text = self._pieces.run(self._bytes, is_first=self._is_first)
        self._bytes, self._is_first = [], False
        return text


class WindowDetokenizer:
    """Works for any tokenizer; bytes that are no UTF-8 may read otherwise than in one decoding."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._ids: list[int] = []  # the window: context, then what is not given out
        self._num_context = 0
        self._context = ""  # text of the context

    def push(self, token_id: int) -> str:
        self._ids.append(token_id)
        text = self._codec.decode(self._ids)
        if text.endswith(REPLACEMENT) or len(text) <= len(self._context):
            return ""
        delta = text[len(self._context) :]
        # What was just given out is the next context, which keeps the spaces between tokens.
        self._ids = self._ids[self._num_context :]
        self._num_context = len(self._ids)
        self._context = self._codec.decode(self._ids)
        return delta

    def pending(self) -> str:
        return ""

    def flush(self) -> str:
        text = self._codec.decode(self._ids)[len(self._context) :]
        self._ids, self._num_context, self._context = [], 0, ""
        return text
