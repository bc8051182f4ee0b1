"""Incremental detokenization: text deltas whose concatenation is the decoding of all ids.

A token's text can depend on its neighbours, so each step decodes a short window before and with
the new token and takes the difference. What may still change waits: half a character (U+FFFD at
the end), and byte-fallback tokens, a whole run of which is decoded together.
"""

from typing import Protocol

REPLACEMENT = "\ufffd"


class Decoder(Protocol):
    """Turns ids into text."""

    def decode(self, token_ids: list[int]) -> str:
        """The text of the ids."""
        ...

    def is_byte(self, token_id: int) -> bool:
        """Whether the token is a single byte that is decoded together with its neighbours."""
        ...


class Detokenizer:
    """The text of one growing list of token ids."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._ids: list[int] = []
        self._start = 0  # the window begins here
        self._read = 0  # ids whose text has been given out
        self._known = ""  # decode(ids[_start:_read])
        self._given = ""  # all text given out

    def push(self, token_id: int) -> str:
        """Add a token; return the text that became certain, perhaps none."""
        self._ids.append(token_id)
        if self._decoder.is_byte(token_id):
            return ""
        window = self._decoder.decode(self._ids[self._start :])
        if window.endswith(REPLACEMENT) or not window.startswith(self._known):
            return ""
        delta = window[len(self._known) :]
        if delta:
            # The next window starts at the piece just given out, which keeps leading context.
            self._start, self._read = self._read, len(self._ids)
            self._known = self._decoder.decode(self._ids[self._start : self._read])
            self._given += delta
        return delta

    def flush(self) -> str:
        """Return what was held back; a truncated character reads as U+FFFD."""
        whole = self._decoder.decode(self._ids)
        tail = whole[len(self._given) :] if whole.startswith(self._given) else ""
        self._given += tail
        return tail
