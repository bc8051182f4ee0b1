"""Log probabilities, as each of OpenAI's two APIs writes them."""

from collections.abc import Sequence
from typing import Any

from lookahead.gateway.tokens.texts import TokenText

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def columns(
    tokens: Sequence[TokenText], offset: int, *, hides_special: bool = False
) -> dict[str, list[Any]]:
    """Log probabilities as /v1/completions writes them; the first token may have none.

    `hides_special`: special tokens take no room in the text.
    """
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += 0 if hides_special and token.is_special else len(token.text)
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [
            None if token.logprob is None else _by_text(token.top) for token in tokens
        ],
        "text_offset": offsets,
    }


def ranked(tokens: Sequence[TokenText]) -> list[dict[str, Any] | None]:
    """Log probabilities of a prompt as vLLM writes them: by id, the token itself among others."""
    return [None if token.logprob is None else _by_id(token) for token in tokens]


def _by_id(token: TokenText) -> dict[str, Any]:
    return {
        str(found.token_id): {
            "logprob": found.logprob,
            "rank": found.rank,
            "decoded_token": found.text,
        }
        for found in (token, *token.top)
    }


def _by_text(tokens: Sequence[TokenText]) -> dict[str, float | None]:
    """Log probabilities by text; of equal texts (parts of characters) all but one go by id."""
    found: dict[str, float | None] = {}
    for token in tokens:
        name = f"token_id:{token.token_id}" if token.text in found else token.text
        found[name] = token.logprob
    return found


def rows(tokens: Sequence[TokenText]) -> dict[str, Any]:
    """Log probabilities as /v1/chat/completions writes them."""
    found = [{**_row(token), "top_logprobs": [_row(top) for top in token.top]} for token in tokens]
    return {"content": found, "refusal": None}


def _row(token: TokenText) -> dict[str, Any]:
    # The text of a token that is only a part of a character would not tell its bytes.
    known = token.spelled or (b"" if REPLACEMENT in token.text else token.text.encode())
    return {"token": token.text, "logprob": token.logprob, "bytes": list(known) or None}
