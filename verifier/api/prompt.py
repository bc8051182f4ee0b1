"""What to generate from: text, token ids or chat messages, checked and turned into token ids."""

from protos import verifier_pb2 as pb
from rpc.contract import LEAVES_ROOM
from rpc.errors import InvalidRequest
from verifier.api.chat import check_chat, parse_conversation
from verifier.api.validation import Limits, Violations, check_ids, check_len
from verifier.chat.format import ChatFormat
from verifier.text.tokenizer import ChatError


def check_input(
    message: pb.GenerateRequest | pb.TokenizeRequest, limits: Limits, violations: Violations
) -> None:
    """Check everything that can be said before tokenizing."""
    kind = message.WhichOneof("input")
    if kind == "text":
        violations.require(bool(message.text), "text", "must not be empty")
        check_len(message.text, "text", limits.max_text_bytes, violations)
    elif kind == "chat":
        check_chat(message.chat, limits, violations)
    elif kind == "token_ids" and isinstance(message, pb.GenerateRequest):
        ids = message.token_ids.ids
        if violations.require(
            0 < len(ids) < limits.max_context,
            "token_ids.ids",
            f"must be 1 to {limits.max_context - 1} ids, {LEAVES_ROOM} of {limits.max_context}",
            len(ids),
        ):
            check_ids(ids, "token_ids.ids", limits.vocabulary_size, violations)
    else:
        violations.require(False, "input", "is missing: set text, token_ids or chat")


def encode_input(
    message: pb.GenerateRequest | pb.TokenizeRequest, chat: ChatFormat, *, special_tokens: bool
) -> tuple[int, ...]:
    """Token ids of a checked input."""
    if message.WhichOneof("input") == "text":
        return tuple(chat.tokenizer.encode(message.text, special_tokens=special_tokens))
    if isinstance(message, pb.GenerateRequest) and message.WhichOneof("input") == "token_ids":
        return tuple(message.token_ids.ids)
    try:
        return tuple(chat.encode(parse_conversation(message.chat)))
    except ChatError as error:
        raise InvalidRequest.at("chat", str(error)) from error
