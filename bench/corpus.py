"""Real text as token ids, made on the spot: Python sources cut into word pieces and hashed.

No tokenizer is loaded: identifiers are cut into pieces of at most six letters, spaces and signs
stand for themselves, and a piece's id is a hash of it. Repetition, order and the long tail of rare
pieces, on which a trie's size and speed depend, are those of the text itself.
"""

import random
import re
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

VOCABULARY = 1 << 17
# Longer files are cut: no request is endless.
MAX_DOCUMENT_LEN = 8192
PIECES = re.compile(r"[A-Za-z]{1,6}|\d{1,3}|[ \t]+|\n+|[^\w\s]+|_+|.")

Document = NDArray[np.int32]


def documents(num_tokens: int, seed: int = 0) -> list[Document]:
    """Tokenise installed Python sources, in shuffled order, until there are enough tokens."""
    found: list[Document] = []
    total = 0
    for document in _tokenised(_sources(seed)):
        if total >= num_tokens:
            return found
        found.append(document)
        total += len(document)
    if total < num_tokens:
        raise ValueError(f"num_tokens: {num_tokens} wanted, installed sources hold {total}")
    return found


def tokenise(text: str, known: dict[str, int]) -> Document:
    """Cut a text into pieces and look up, or make, their ids."""
    ids = []
    for piece in PIECES.findall(text):
        token = known.get(piece)
        if token is None:
            token = known[piece] = crc32(piece.encode("utf-8", "replace")) % VOCABULARY
        ids.append(token)
    return np.asarray(ids, np.int32)


def _tokenised(paths: list[Path]) -> Iterator[Document]:
    known: dict[str, int] = {}
    for path in paths:
        tokens = tokenise(path.read_text(encoding="utf-8", errors="replace"), known)
        for start in range(0, len(tokens), MAX_DOCUMENT_LEN):
            yield tokens[start : start + MAX_DOCUMENT_LEN]


def _sources(seed: int) -> list[Path]:
    """List Python files of the standard library and of installed packages, well mixed."""
    roots = [sysconfig.get_path("stdlib"), *(path for path in sys.path if "site-packages" in path)]
    paths = sorted({path for root in roots for path in Path(root).rglob("*.py")})
    random.Random(seed).shuffle(paths)
    return paths
