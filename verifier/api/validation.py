"""What is wrong with a request, field by field, and what this server can do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rpc.errors import MAX_VALUE_CHARS, FieldViolation, InvalidRequest


class Violations:
    """Grows by `require`; `raise_any` ends the request if there are some."""

    def __init__(self) -> None:
        self._found: list[FieldViolation] = []

    def require(self, is_right: bool, field: str, problem: str, value: object = None) -> bool:
        """Note the problem unless it `is_right`; return which."""
        if not is_right:
            # Numbers arrive in single precision: 1.01 should not read 1.0099999904632568.
            shown = f"{value:g}" if isinstance(value, float) else repr(value)
            quoted = "" if value is None else f", got {shown[:MAX_VALUE_CHARS]}"
            self._found.append(FieldViolation(field, problem + quoted))
        return is_right

    def raise_any(self) -> None:
        """Raise InvalidRequest if anything was wrong."""
        if self._found:
            raise InvalidRequest(*self._found)


# Text longer than this for each token of context cannot fit, and is not worth tokenizing.
MAX_BYTES_PER_TOKEN = 32


@dataclass(frozen=True, slots=True)
class Limits:
    """What this server can do."""

    vocabulary_size: int
    max_context: int
    max_nodes: int
    max_depth: int
    allows_drafts: bool
    clamps: bool = False  # an output that the context has no room for is made shorter
    # What the model's makers recommend, by field of the contract's sampling.
    recommended: Mapping[str, float] = field(default_factory=dict)

    @property
    def max_text_bytes(self) -> int:
        """Longest text worth tokenizing."""
        return MAX_BYTES_PER_TOKEN * self.max_context


def check_len(text: str, field: str, max_bytes: int, violations: Violations) -> bool:
    """Require that the text is at most so long."""
    num_bytes = len(text.encode())
    return violations.require(
        num_bytes <= max_bytes, field, f"must be at most {max_bytes} bytes", num_bytes
    )


def check_ids(ids: Sequence[int], field: str, vocabulary_size: int, violations: Violations) -> None:
    """Require that all ids are in the vocabulary; the first that is not is named."""
    bad = next((i for i, token_id in enumerate(ids) if token_id >= vocabulary_size), None)
    if bad is not None:
        problem = f"must be a token id below {vocabulary_size}"
        violations.require(False, f"{field}[{bad}]", problem, ids[bad])
