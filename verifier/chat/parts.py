"""The parts that an answer is made of."""

import enum
from dataclasses import dataclass


class Kind(enum.IntEnum):
    """Numbered as in the contract."""

    CONTENT = 1
    CALL = 2
    REASONING = 3


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a part, as far as it is certain."""

    kind: Kind
    text: str = ""  # of a call: JSON
    call_index: int = 0
    tool_name: str = ""  # in the first piece of a call


def merged(parts: list[Part]) -> tuple[Part, ...]:
    """Join pieces that follow each other in one part."""
    found: list[Part] = []
    for part in parts:
        last = found[-1] if found else None
        goes_on = last is not None and not part.tool_name
        if last and goes_on and (last.kind, last.call_index) == (part.kind, part.call_index):
            text = last.text + part.text
            found[-1] = Part(last.kind, text, last.call_index, last.tool_name)
        elif part.text or part.tool_name:
            found.append(part)
    return tuple(found)
