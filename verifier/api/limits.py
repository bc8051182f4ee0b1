"""What this server takes at most, by name, for GetModel; docs/operations.md explains each."""

from rpc.server import MAX_CONNECTIONS, MAX_MESSAGE_BYTES
from verifier.api import chat, constraint, params
from verifier.api.validation import Limits
from verifier.cache.pages import PAGE
from verifier.cache.stateful_slots import StatefulSlots
from verifier.config import VerifierConfig
from verifier.model.model import TargetModel


def described(limits: Limits, model: TargetModel, config: VerifierConfig) -> dict[str, int]:
    """Return the limits of requests, of the queue and of the process."""
    found = {
        "prompt_tokens": limits.max_context - 1,
        "total_tokens": limits.max_context,
        "text_bytes": limits.max_text_bytes,
        "message_bytes": MAX_MESSAGE_BYTES,
        "messages": chat.MAX_MESSAGES,
        "tools": chat.MAX_TOOLS,
        "stop_strings": params.MAX_STOP_STRINGS,
        "stop_string_bytes": params.MAX_STOP_STRING_BYTES,
        "stop_token_ids": params.MAX_STOP_IDS,
        "logit_bias": params.MAX_BIASES,
        "top_logprobs": params.MAX_TOP_LOGPROBS,
        "json_schema_bytes": constraint.MAX_SCHEMA_BYTES,
        "regex_bytes": constraint.MAX_REGEX_BYTES,
        "grammar_bytes": constraint.MAX_GRAMMAR_BYTES,
        "choices": constraint.MAX_CHOICES,
        "nodes": limits.max_nodes if limits.allows_drafts else 0,
        "depth": limits.max_depth if limits.allows_drafts else 0,
        "prediction_tokens": min(params.MAX_PREDICTION_TOKENS, limits.max_context),
        "running": model.slots.num_slots,
        "queued": config.max_waiting,
        "unread_tokens": config.max_unread_tokens,
        "pass_seconds": round(config.watchdog_s),
        "connections": MAX_CONNECTIONS,
    }
    if not isinstance(model.slots, StatefulSlots):
        found["cached_tokens"] = PAGE * model.slots.pages.num_pages
    return found
