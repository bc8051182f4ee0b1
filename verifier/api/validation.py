"""What to generate from: text, token ids or chat messages, checked and turned into token ids."""

from collections.abc import Sequence
from dataclasses import dataclass

from protos import verifier_pb2 as pb
from rpc.errors import MAX_VALUE_CHARS, FieldViolation, InvalidRequest
from verifier.text.tokenizer import ChatError, Tokenizer


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


MAX_MESSAGES = 1024
MAX_ROLE_CHARS = 64
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

    @property
    def max_text_bytes(self) -> int:
        """Longest text worth tokenizing."""
        return MAX_BYTES_PER_TOKEN * self.max_context


def check_input(
    message: pb.GenerateRequest | pb.TokenizeRequest, limits: Limits, violations: Violations
) -> None:
    """Check everything that can be said before tokenizing."""
    kind = message.WhichOneof("input")
    if kind == "text":
        violations.require(bool(message.text), "text", "must not be empty")
        check_len(message.text, "text", limits.max_text_bytes, violations)
    elif kind == "chat":
        _check_chat(message.chat, limits, violations)
    elif kind == "token_ids" and isinstance(message, pb.GenerateRequest):
        ids = message.token_ids.ids
        if violations.require(
            0 < len(ids) < limits.max_context,
            "token_ids.ids",
            f"must be 1 to {limits.max_context - 1} ids for a context of {limits.max_context}",
            len(ids),
        ):
            check_ids(ids, "token_ids.ids", limits.vocabulary_size, violations)
    else:
        violations.require(False, "input", "is missing: set text, token_ids or chat")


def encode_input(
    message: pb.GenerateRequest | pb.TokenizeRequest, tokenizer: Tokenizer, *, special_tokens: bool
) -> tuple[int, ...]:
    """Token ids of a checked input."""
    if message.WhichOneof("input") == "text":
        return tuple(tokenizer.encode(message.text, special_tokens=special_tokens))
    if isinstance(message, pb.GenerateRequest) and message.WhichOneof("input") == "token_ids":
        return tuple(message.token_ids.ids)
    messages = [{"role": m.role, "content": m.content} for m in message.chat.messages]
    try:
        return tuple(tokenizer.encode_chat(messages))
    except ChatError as error:
        raise InvalidRequest.at("chat", str(error)) from error


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


def _check_chat(chat: pb.ChatMessages, limits: Limits, violations: Violations) -> None:
    num_messages = len(chat.messages)
    if not violations.require(
        0 < num_messages <= MAX_MESSAGES,
        "chat.messages",
        f"must be 1 to {MAX_MESSAGES} messages",
        num_messages,
    ):
        return
    for i, message in enumerate(chat.messages):
        violations.require(
            0 < len(message.role) <= MAX_ROLE_CHARS and message.role.isprintable(),
            f"chat.messages[{i}].role",
            f"must be 1 to {MAX_ROLE_CHARS} printable characters",
            message.role,
        )
    num_bytes = sum(len(message.content.encode()) for message in chat.messages)
    problem = f"must hold at most {limits.max_text_bytes} bytes together"
    violations.require(num_bytes <= limits.max_text_bytes, "chat.messages", problem, num_bytes)
