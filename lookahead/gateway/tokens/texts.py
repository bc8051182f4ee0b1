"""The text of single tokens, for log probabilities. The verifier is asked once for each token."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from lookahead.gateway.verifiers import Verifiers
from protos import verifier_pb2 as pb

MAX_TEXTS = 1 << 18  # about as many as the largest vocabularies have


@dataclass(frozen=True, slots=True)
class TokenText:
    """A token, its log probability and that of the best alternatives, best first."""

    token_id: int
    text: str
    logprob: float
    top: tuple["TokenText", ...] = ()


class TokenTexts:
    """Remembers texts for one vocabulary at a time."""

    def __init__(self, verifiers: Verifiers) -> None:
        self._verifiers = verifiers
        self._vocabulary = ""
        self._texts: dict[int, str] = {}

    async def of_logprobs(self, tokens: pb.Tokens) -> tuple[TokenText, ...]:
        """Return each emitted token with its log probability."""
        ids = set(tokens.token_ids)
        ids.update(top.token_id for entry in tokens.logprobs for top in entry.top)
        texts = await self.of_ids(ids)
        return tuple(
            TokenText(
                token_id,
                texts[token_id],
                entry.logprob,
                tuple(TokenText(t.token_id, texts[t.token_id], t.logprob) for t in entry.top),
            )
            for token_id, entry in zip(tokens.token_ids, tokens.logprobs, strict=True)
        )

    async def of_ids(self, ids: Iterable[int]) -> dict[int, str]:
        """Return the text of each token alone."""
        vocabulary = (await self._verifiers.model()).vocabulary_fingerprint
        if vocabulary != self._vocabulary or len(self._texts) > MAX_TEXTS:
            self._vocabulary, self._texts = vocabulary, {}
        known = self._texts
        missing = [token_id for token_id in ids if token_id not in known]
        known.update(zip(missing, await asyncio.gather(*map(self._ask, missing)), strict=True))
        return {token_id: known[token_id] for token_id in ids}

    async def _ask(self, token_id: int) -> str:
        request = pb.DetokenizeRequest(token_ids=[token_id], special_tokens=True)
        return (await self._verifiers.detokenize(request)).text
