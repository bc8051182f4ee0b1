"""How often each token was seen: arrays that grow by one entry a token, ready for penalties."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


class TokenCounts:
    """Distinct tokens of prompt and output in order of appearance, with their output counts."""

    def __init__(self, prompt_token_ids: Iterable[int]) -> None:
        distinct = dict.fromkeys(prompt_token_ids)
        self._index = {token_id: i for i, token_id in enumerate(distinct)}
        self._ids = np.zeros(max(64, 2 * len(distinct)), np.int64)
        self._ids[: len(distinct)] = list(distinct)
        self._in_output = np.zeros(len(self._ids), np.float32)

    def __len__(self) -> int:
        return len(self._index)

    @property
    def ids(self) -> NDArray[np.int64]:
        """The distinct tokens."""
        return self._ids[: len(self)]

    @property
    def in_output(self) -> NDArray[np.float32]:
        """How often the output holds each of them."""
        return self._in_output[: len(self)]

    def push(self, token_id: int) -> None:
        """Count one token of the output."""
        index = self._index.setdefault(token_id, len(self._index))
        if index == len(self._ids):
            self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
            self._in_output = np.concatenate([self._in_output, np.zeros_like(self._in_output)])
        self._ids[index] = token_id
        self._in_output[index] += 1
