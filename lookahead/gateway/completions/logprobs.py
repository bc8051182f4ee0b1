"""Log probabilities, as each of OpenAI's two APIs writes them."""

from collections.abc import Sequence
from typing import Any

from lookahead.gateway.tokens.texts import TokenText

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def columns(tokens: Sequence[TokenText], offset: int) -> dict[str, list[Any]]:
    """Log probabilities as /v1/completions writes them."""
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.text)
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [_by_text(token.top) for token in tokens],
        "text_offset": offsets,
    }


def _by_text(tokens: Sequence[TokenText]) -> dict[str, float]:
    """Log probabilities by text; of equal texts (parts of characters) all but one go by id."""
    found: dict[str, float] = {}
    for token in tokens:
        name = f"token_id:{token.token_id}" if token.text in found else token.text
        found[name] = token.logprob
    return found


def rows(tokens: Sequence[TokenText]) -> dict[str, Any]:
    """Log probabilities as /v1/chat/completions writes them."""
    found = [{**_row(token), "top_logprobs": [_row(top) for top in token.top]} for token in tokens]
    return {"content": found, "refusal": None}


def _row(token: TokenText) -> dict[str, Any]:
    # A token that is only a part of a character has no bytes that its text could tell.
    known = REPLACEMENT not in token.text
    return {
        "token": token.text,
        "logprob": token.logprob,
        "bytes": list(token.text.encode()) if known else None,
    }
