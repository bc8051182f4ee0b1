"""Other projects' own draft sources, offered in a replay where their packages are installed."""

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from bench.replay.draft import Draft
from bench.replay.player import Factory

ARCTIC_MODULE = "arctic_inference.suffix_decoding"
# The settings that served it best on recorded requests: trees, long matches, long drafts.
MAX_DEPTH = 64
LENGTH_FACTOR = 4.0


class ArcticDraft(Protocol):
    """What Arctic Inference answers."""

    token_ids: list[int]
    parents: list[int]


class ArcticCache(Protocol):
    """The part of Arctic Inference's cache that a replay uses."""

    def start_request(self, req_id: int, prompt_token_ids: NDArray[np.int32]) -> None:
        """Build the request's own suffix tree."""

    def add_active_response(self, req_id: int, token_ids: NDArray[np.int32]) -> None:
        """Extend the request's own tree and the global one."""

    def speculate(
        self,
        req_id: int,
        context: NDArray[np.int32],
        *,
        max_spec_tokens: int,
        max_spec_factor: float,
        use_tree_spec: bool,
    ) -> ArcticDraft:
        """Draft."""

    def stop_request(self, req_id: int) -> None:
        """Drop the request's own tree."""


class Arctic:
    """SuffixDecoding of Arctic Inference: its tree drafts, its C++ suffix trees."""

    def __init__(self) -> None:
        module = import_module(ARCTIC_MODULE)
        # The package ships no types; the protocol above is the part of it that is used.
        self._cache = cast(ArcticCache, module.SuffixDecodingCache(max_tree_depth=MAX_DEPTH))
        self._request = 0
        self._context: NDArray[np.int32] = np.zeros(0, np.int32)
        self._num_tokens = 0

    def open(self, token_ids: Sequence[int]) -> None:
        """Start the next request."""
        self._request += 1
        self._context = np.asarray(token_ids, np.int32)
        self._cache.start_request(self._request, self._context)
        self._context = self._context[-MAX_DEPTH:]

    def observe(self, token_ids: Sequence[int], num_verified: int) -> None:
        """Learn the emitted tokens, for this request and for all later ones."""
        emitted = np.asarray(token_ids, np.int32)
        self._cache.add_active_response(self._request, emitted)
        self._context = np.concatenate([self._context, emitted])[-MAX_DEPTH:]
        self._num_tokens += len(emitted)

    def propose(self, max_nodes: int) -> Draft:
        """Draft a tree. Its scores are raw shares of counts: no calibrated odds."""
        draft = self._cache.speculate(
            self._request,
            self._context,
            max_spec_tokens=max_nodes,
            max_spec_factor=LENGTH_FACTOR,
            use_tree_spec=True,
        )
        return Draft(draft.token_ids, draft.parents)

    def close(self) -> None:
        """End the request; its answer stays in the global tree."""
        self._cache.stop_request(self._request)

    def num_learned_tokens(self) -> int:
        """Count the answers' tokens; prompts are not kept."""
        return self._num_tokens

    def num_bytes(self) -> int:
        """Say nothing: the package does not tell."""
        return 0


def peers() -> dict[str, Factory]:
    """Name the peers that can be imported here."""
    package = ARCTIC_MODULE.partition(".")[0]
    return {"arctic": Arctic} if find_spec(package) is not None else {}
