"""Fields that are accepted without effect: those that cannot change the words, and what they are.

A request names all its fields that have none in `lookahead.ignored`. Any other field that is not
known is refused by name, unless the gateway is told to ignore it as well.
"""

import fnmatch
import re
from collections.abc import Callable, Sequence
from typing import Any

Check = Callable[[object], bool]


def _is_any(value: object) -> bool:
    return True


def _is_one_of(*values: object) -> Check:
    return lambda value: value in values


# By the field's path, in which [] stands for the place in a list and * for any name.
HARMLESS: dict[str, Check] = {
    # Bookkeeping of accounts, bills, caches and traces.
    "metadata": _is_any,
    "service_tier": _is_any,
    "store": _is_any,
    "prompt_cache_key": _is_any,
    "prompt_cache_retention": _is_any,
    "prompt_cache_options": _is_any,
    "safety_identifier": _is_any,
    "request_id": _is_any,
    "client_metadata": _is_any,
    "litellm_*": _is_any,
    "drop_params": _is_any,
    # Hints of how, not of what; and limits that other servers take.
    "verbosity": _is_any,
    "num_ctx": _is_any,
    "keep_alive": _is_any,
    "stream_options.include_obfuscation": _is_any,
    # What asks for nothing.
    "functions": _is_one_of([]),
    "function_call": _is_one_of("none", "auto"),
    "modalities": _is_one_of(["text"]),
    "lookahead.exactness": _is_any,  # all drafts are exact
    # What an answer brought, sent back; and marks for other servers' caches.
    "messages[].name": _is_any,
    "messages[].refusal": _is_any,
    "messages[].annotations": _is_any,
    "messages[].provider_specific_fields": _is_any,
    "messages[].cache_control": _is_any,
    "messages[].content[].cache_control": _is_any,
    "messages[].content[].annotations": _is_any,
    "messages[].tool_calls[].cache_control": _is_any,
    "tools[].cache_control": _is_any,
    "tools[].function.cache_control": _is_any,
    # /v1/responses
    "include": _is_any,
    "truncation": _is_any,
    "stream_options": _is_any,
    "text.verbosity": _is_any,
    "reasoning.summary": _is_any,
    "reasoning.generate_summary": _is_any,
    "input[].content[].annotations": _is_any,
    "input[].content[].logprobs": _is_any,
    "input[].name": _is_any,
    # /v1/messages
    "cache_control": _is_any,
    "speed": _is_one_of("standard"),
    "thinking.budget_tokens": _is_any,
    "thinking.display": _is_any,
    "context_management": _is_any,
    "system[].cache_control": _is_any,
    "messages[].content[].citations": _is_one_of([]),
    "messages[].content[].caller": _is_any,
    "messages[].content[].content[].cache_control": _is_any,
    "tools[].eager_input_streaming": _is_any,
    "tools[].input_examples": _is_any,
}


def is_harmless(path: str, value: object) -> bool:
    """Whether a field cannot change the words, so that it may be ignored."""
    return any(
        fnmatch.fnmatchcase(path, name.replace("[", "[[]")) and is_right(value)
        for name, is_right in HARMLESS.items()
    )


def place(path: str) -> str:
    """The path with all lists' places alike: messages[3].name is messages[].name."""
    return re.sub(r"\[\d+\]", "[]", path)


def take_out(found: Any, loc: tuple[int | str, ...]) -> object:
    """Remove a field and return its value; steps of `loc` that are no field are passed over."""
    *outer, name = loc
    for step in outer:
        is_place = isinstance(found, list) and isinstance(step, int)
        if is_place or (isinstance(found, dict) and step in found):
            found = found[step]
    return found.pop(name)


def ignored_header(ignored: Sequence[str]) -> dict[str, str]:
    """Return the header that names fields without effect, for those who read no body."""
    names = ", ".join(name for name in ignored if re.fullmatch(r"[\w.\[\]-]+", name, re.ASCII))
    return {"x-lookahead-ignored": names} if names else {}
