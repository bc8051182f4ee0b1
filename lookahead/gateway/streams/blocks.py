"""An answer as a row of blocks: what is thought, what is said, and each call, one after another."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from lookahead.gateway.choice import Choice, Piece, ToolCall


@dataclass(slots=True)
class Block:
    """One block, as far as it is written."""

    index: int
    kind: str  # reasoning, text or call
    call: ToolCall | None = None
    pieces: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All of it so far; of a call its arguments."""
        return "".join(self.pieces)


@dataclass(frozen=True, slots=True)
class Step:
    """What happens to a block: it begins, grows by a text, or ends."""

    block: Block
    begins: bool = False
    text: str = ""
    ends: bool = False


class Blocks:
    """Follows the pieces of one choice."""

    def __init__(self) -> None:
        self.all: list[Block] = []
        self._is_open = False

    def add(self, piece: Piece) -> Iterator[Step]:
        """Yield what a piece does to blocks."""
        if piece.reasoning:
            yield from self._grow("reasoning", None, piece.reasoning)
        if piece.text:
            yield from self._grow("text", None, piece.text)
        for part in piece.calls:
            yield from self._grow("call", part.call, part.arguments)
        if piece.finish_reason is not None:
            yield from self._end()

    def _grow(self, kind: str, call: ToolCall | None, text: str) -> Iterator[Step]:
        last = self.all[-1] if self._is_open else None
        if last is None or (last.kind, last.call) != (kind, call):
            yield from self._end()
            last = Block(len(self.all), kind, call)
            self.all.append(last)
            self._is_open = True
            yield Step(last, begins=True)
        last.pieces.append(text)
        if text:
            yield Step(last, text=text)

    def _end(self) -> Iterator[Step]:
        if self._is_open:
            self._is_open = False
            yield Step(self.all[-1], ends=True)


def blocks_of(choice: Choice) -> list[Block]:
    """Return the blocks of a finished choice."""
    found = []
    if choice.reasoning:
        found.append(Block(0, "reasoning", None, choice.reasoning))
    if any(choice.text):
        found.append(Block(len(found), "text", None, choice.text))
    for call in choice.calls:
        found.append(Block(len(found), "call", call, call.arguments))
    return found
