"""The model's own tokenizer: text and chat messages to ids, ids to text, and its fingerprint."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import AutoTokenizer, GenerationConfig

BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")


class ChatError(ValueError):
    """The messages cannot be rendered; says why."""


class Tokenizer:
    """A Hugging Face tokenizer, as the services need it."""

    def __init__(self, backend: Any, eos_token_ids: frozenset[int]) -> None:
        self.eos_token_ids = eos_token_ids
        self._backend = backend
        vocabulary: dict[str, int] = backend.get_vocab()
        self.size = 1 + max(vocabulary.values())
        self.fingerprint = _fingerprint(vocabulary)
        self._byte_ids = frozenset(i for token, i in vocabulary.items() if BYTE_TOKEN.match(token))

    @property
    def has_chat_template(self) -> bool:
        """Whether chat messages can be rendered."""
        return bool(self._backend.chat_template)

    def encode(self, text: str, *, special_tokens: bool = True) -> list[int]:
        """Ids of the text. Special tokens spelled out in it become those tokens."""
        ids: list[int] = self._backend(text, add_special_tokens=special_tokens)["input_ids"]
        return ids

    def encode_chat(self, messages: list[dict[str, str]]) -> list[int]:
        """Ids of the messages rendered with the model's chat template, ready for an answer."""
        if not self.has_chat_template:
            raise ChatError("the model has no chat template; send text or token ids")
        try:
            text: str = self._backend.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
        except (TemplateError, TypeError, KeyError) as error:
            raise ChatError(f"the model's chat template refuses the messages: {error}") from error
        return self.encode(text, special_tokens=False)

    def decode(self, token_ids: list[int], *, special_tokens: bool = False) -> str:
        """The text of the ids."""
        text: str = self._backend.decode(
            token_ids,
            skip_special_tokens=not special_tokens,
            clean_up_tokenization_spaces=False,
        )
        return text

    def decoder(self, *, special_tokens: bool) -> "SpecialTokensDecoder":
        """A decoder that shows special tokens or hides them."""
        return SpecialTokensDecoder(self, special_tokens)

    def is_byte(self, token_id: int) -> bool:
        """Whether the token is a byte-fallback token."""
        return token_id in self._byte_ids


class SpecialTokensDecoder:
    """`Detokenizer`'s view of a tokenizer."""

    def __init__(self, tokenizer: Tokenizer, special_tokens: bool) -> None:
        self._tokenizer = tokenizer
        self._special_tokens = special_tokens

    def decode(self, token_ids: list[int]) -> str:
        """The text of the ids."""
        return self._tokenizer.decode(token_ids, special_tokens=self._special_tokens)

    def is_byte(self, token_id: int) -> bool:
        """Whether the token is a byte-fallback token."""
        return self._tokenizer.is_byte(token_id)


def load_tokenizer(name: str) -> Tokenizer:
    """Load a local path, a hub id or a .gguf file; no remote code."""
    path, options = Path(name), {}
    if path.suffix == ".gguf":
        name, options = str(path.parent), {"gguf_file": path.name}
    backend = AutoTokenizer.from_pretrained(name, trust_remote_code=False, **options)
    return Tokenizer(backend, _eos_token_ids(name, backend))


def _eos_token_ids(name: str, backend: Any) -> frozenset[int]:
    """The generation configuration's ids, as `generate` uses them; else the tokenizer's own."""
    try:
        eos = GenerationConfig.from_pretrained(name).eos_token_id
    except OSError:
        eos = None
    eos = backend.eos_token_id if eos is None else eos
    ids = eos if isinstance(eos, list) else [eos]
    return frozenset(i for i in ids if i is not None)


def _fingerprint(vocabulary: dict[str, int]) -> str:
    described = json.dumps(sorted(vocabulary.items()), ensure_ascii=True)
    return hashlib.sha256(described.encode()).hexdigest()[:32]
