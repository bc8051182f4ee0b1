"""The texts of single tokens, for log probabilities. The verifier is asked once for each token."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lookahead.gateway.verifiers import Verifiers
from protos import verifier_pb2 as pb

MAX_TEXTS = 1 << 18  # about as many as the largest vocabularies have


@dataclass(frozen=True, slots=True)
class TokenText:
    """A token, its log probability and that of the best alternatives, best first."""

    token_id: int
    text: str
    logprob: float | None  # None: it follows nothing
    top: tuple["TokenText", ...] = ()
    spelled: bytes = b""  # what it adds to a text; empty where that is not known
    is_special: bool = False
    rank: int = 0  # among all tokens, from 1 on; 0: not known


class TokenTexts:
    """Remembers texts for one vocabulary at a time."""

    def __init__(self, verifiers: Verifiers) -> None:
        self._verifiers = verifiers
        self._vocabulary = ""
        self._texts: dict[int, pb.TokenText] = {}

    async def of_logprobs(
        self, token_ids: Sequence[int], logprobs: Sequence[pb.TokenLogprobs]
    ) -> tuple[TokenText, ...]:
        """Return each token with its log probability; the first ones may have none."""
        ids = set(token_ids)
        ids.update(top.token_id for entry in logprobs for top in entry.top)
        texts = await self.of_ids(ids)
        num_bare = len(token_ids) - len(logprobs)
        bare = [_text(texts, token_id, None) for token_id in token_ids[:num_bare]]
        known = zip(token_ids[num_bare:], logprobs, strict=True)
        return (*bare, *(_with_top(texts, token_id, entry) for token_id, entry in known))

    async def of_ids(self, ids: Iterable[int]) -> dict[int, pb.TokenText]:
        """Return the text of each token alone."""
        vocabulary = (await self._verifiers.model()).vocabulary_fingerprint
        if vocabulary != self._vocabulary or len(self._texts) > MAX_TEXTS:
            self._vocabulary, self._texts = vocabulary, {}
        known = self._texts
        missing = [token_id for token_id in ids if token_id not in known]
        if missing:
            request = pb.DetokenizeRequest(token_ids=missing, each=True)
            found = (await self._verifiers.detokenize(request)).tokens
            known.update(zip(missing, found, strict=True))
        return {token_id: known[token_id] for token_id in ids}

    async def of_run(self, token_ids: Sequence[int], *, special_tokens: bool) -> str:
        """Return the text of the tokens together."""
        request = pb.DetokenizeRequest(token_ids=token_ids, special_tokens=special_tokens)
        return (await self._verifiers.detokenize(request)).text


def _with_top(texts: dict[int, pb.TokenText], token_id: int, entry: pb.TokenLogprobs) -> TokenText:
    top = tuple(
        _text(texts, best.token_id, best.logprob, rank=rank)
        for rank, best in enumerate(entry.top, start=1)
    )
    return _text(texts, token_id, entry.logprob, top=top, rank=entry.rank)


def _text(
    texts: dict[int, pb.TokenText],
    token_id: int,
    logprob: float | None,
    *,
    top: tuple[TokenText, ...] = (),
    rank: int = 0,
) -> TokenText:
    found = texts[token_id]
    return TokenText(token_id, found.text, logprob, top, found.spelled, found.is_special, rank)
