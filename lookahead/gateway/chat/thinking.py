"""How much a model is to think, as chat templates are told."""

import json
from typing import Any

from protos import verifier_pb2 as pb


def thinking_options(is_enabled: bool | None, effort: str | None) -> dict[str, Any]:
    """Return variables of templates: an effort other than none also turns thinking on."""
    options: dict[str, Any] = {}
    if effort is not None:
        options["enable_thinking"] = effort != "none"
        if effort != "none":
            options["reasoning_effort"] = effort
    if is_enabled is not None:
        options["enable_thinking"] = is_enabled
    return options


def set_options(chat: pb.ChatMessages, options: dict[str, Any]) -> None:
    """Give a conversation the variables of its template."""
    if options:
        chat.template_options = json.dumps(options, ensure_ascii=False)
