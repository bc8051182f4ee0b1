"""The model's own tokenizer: text and chat messages to ids, ids to text, and its fingerprint.

Special tokens spelled out in plain text become those tokens, since plain text is how prompts are
written by hand. Spelled out in a chat message they stay text: a message cannot end its own turn.
"""

import contextlib
import hashlib
import json
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

from jinja2 import TemplateError
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from verifier.constraints.constraint import ConstraintError
from verifier.constraints.grammar import Grammars
from verifier.text.detokenizer import Detokenizer, Pieces, detokenizer_for
from verifier.text.token_bytes import spelled

ANCHOR = "\x02"  # a control character, which merges with nothing
BATCH = 512  # texts; their ids are made into numbers of Python while nobody else runs
# Whatever a template that meets unexpected messages may raise.
TEMPLATE_ERRORS = (
    TemplateError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
)


class ChatError(ValueError):
    """The messages cannot be rendered; says why."""


class Tokenizer:
    """A Hugging Face tokenizer, as the services need it. Safe to call from several threads."""

    def __init__(self, backend: Any, eos_token_ids: frozenset[int]) -> None:
        self.eos_token_ids = eos_token_ids
        self._backend = backend
        vocabulary: dict[str, int] = backend.get_vocab()
        self.size = 1 + max(vocabulary.values())
        self.fingerprint = _fingerprint(vocabulary)
        tokens = [""] * self.size
        for token, token_id in vocabulary.items():
            tokens[token_id] = token
        self.special_ids = _special_ids(backend)
        self._tokens = tokens
        # Encoding through the Rust object changes no settings, unlike the Python call.
        self._rust = getattr(backend, "backend_tokenizer", None)
        if self._rust is not None:
            self._rust.no_truncation()
            self._rust.no_padding()
        self._makers = {
            shown: detokenizer_for(HuggingFaceCodec(self, tokens, special_tokens=shown))
            for shown in (False, True)
        }
        self._pieces = Pieces(HuggingFaceCodec(self, tokens, special_tokens=True))

    @property
    def has_chat_template(self) -> bool:
        """Whether chat messages can be rendered."""
        return bool(self._backend.chat_template)

    @property
    def decoder_description(self) -> str:
        """What the Rust decoder is made of, as JSON; empty for a tokenizer in Python."""
        decoder = getattr(self._rust, "decoder", None)
        return "" if decoder is None else decoder.__getstate__().decode()

    def encode(self, text: str, *, special_tokens: bool = True) -> list[int]:
        """Ids of the text; `special_tokens` adds those that begin and end a text."""
        return self._encode_all([text], special_tokens=special_tokens)[0]

    def _encode_all(self, texts: list[str], *, special_tokens: bool = False) -> list[list[int]]:
        """Ids of each text. In batches, since the call for one text lets no other thread run."""
        if self._rust is None:
            return [self._backend(t, add_special_tokens=special_tokens)["input_ids"] for t in texts]
        batches = (texts[start : start + BATCH] for start in range(0, len(texts), BATCH))
        encode = partial(self._rust.encode_batch_fast, add_special_tokens=special_tokens)
        return [encoding.ids for batch in batches for encoding in encode(batch)]

    def chat_template(self, *, has_tools: bool) -> str:
        """The template that renders chat messages, perhaps one of its own with tools; or none."""
        if not self.has_chat_template:
            return ""
        template: str = self._backend.get_chat_template(tools=[{}] if has_tools else None)
        return template

    @property
    def special_tokens(self) -> list[str]:
        """The texts of all special tokens."""
        return [self._tokens[i] for i in self.special_ids]

    def special_tokens_in(self, texts: Sequence[str]) -> dict[str, int]:
        """The special tokens that stand in the texts, by their own text."""
        found = ((self._tokens[i], i) for i in self.special_ids)
        return {token: i for token, i in found if any(token in text for text in texts)}

    def encode_chat(
        self,
        messages: Sequence[dict[str, Any]],
        tools: Sequence[dict[str, Any]] | None = None,
        options: Mapping[str, Any] | None = None,
        *,
        continues_last: bool = False,
    ) -> list[int]:
        """Ids of the messages rendered with the model's chat template, ready for an answer.

        `options`: more variables for the template. `continues_last`: the last message is the
        beginning of the answer.
        """
        if not self.has_chat_template:
            raise ChatError("the model has no chat template; send text or token ids")
        # Stands in for special tokens spelled out by users, and cannot be guessed by them.
        guard = f"\ue000{secrets.token_hex(8)}:"
        said = [list(messages), list(tools or ()), dict(options or {})]
        guarded = _with_texts(said, iter(self._guarded(list(_texts(said)), guard)))
        try:
            text: str = self._backend.apply_chat_template(
                guarded[0],
                tools=guarded[1] or None,
                tokenize=False,
                add_generation_prompt=not continues_last,
                continue_final_message=continues_last,
                **guarded[2],
            )
        except TEMPLATE_ERRORS as error:
            raise ChatError(f"the model's chat template refuses the messages: {error}") from error
        return self._encode_guarded(text, guard)

    def _guarded(self, texts: list[str], guard: str) -> list[str]:
        """The texts with the special tokens in them spelled in a way that makes no token."""
        # The tokenizer finds them faster than any search over thousands of special tokens.
        found = self.special_ids.intersection(self.encode("\n".join(texts), special_tokens=False))
        spelled = sorted((self._tokens[i] for i in found), key=len, reverse=True)
        if not spelled:
            return texts
        pattern = re.compile("|".join(map(re.escape, spelled)))
        replaced = [
            pattern.sub(lambda match: f"{guard}{match[0].encode().hex()}\ue001", text)
            for text in texts
        ]
        # What hid behind a replaced one may show now.
        return texts if replaced == texts else self._guarded(replaced, guard)

    def _encode_guarded(self, text: str, guard: str) -> list[int]:
        pieces: list[str] = []
        for i, part in enumerate(re.split(f"{guard}([0-9a-f]+)\ue001", text)):
            # Odd parts are spelled-out special tokens: their halves are ordinary text.
            spelled = bytes.fromhex(part).decode() if i % 2 else ""
            pieces += (spelled[:1], spelled[1:]) if i % 2 else (part,)
        return [token_id for ids in self._encode_all(pieces) for token_id in ids]

    def decode(self, token_ids: list[int], *, special_tokens: bool = False) -> str:
        """The text of the ids."""
        text: str = self._backend.decode(
            token_ids,
            skip_special_tokens=not special_tokens,
            clean_up_tokenization_spaces=False,
        )
        return text

    @cached_property
    def _spellings(self) -> list[bytes]:
        return spelled(self._tokens, self._added_ids, self.decoder_description)

    @property
    def _added_ids(self) -> frozenset[int]:
        return frozenset(getattr(self._backend, "added_tokens_decoder", {}))

    @cached_property
    def grammars(self) -> Grammars:
        """Compiles constraints on outputs; making it takes seconds and holds up other threads.

        Raises ConstraintError where outputs of this tokenizer cannot be constrained.
        """
        return Grammars(
            self._spellings,
            self.eos_token_ids,
            special_ids=self.special_ids,
            added_ids=self._added_ids,
            encode=self._encode_inside,
            decode=self.decode,
        )

    def prepare_grammars(self) -> None:
        """Make what compiles constraints now, so that no request waits for it."""
        with contextlib.suppress(ConstraintError):  # said to those who ask for one
            _ = self.grammars

    def _encode_inside(self, text: str) -> list[int]:
        """Ids of a text that follows another one: no space is put before it."""
        before = self.encode(ANCHOR, special_tokens=False)
        ids = self.encode(ANCHOR + text, special_tokens=False)
        return ids[len(before) :]

    def detokenizer(self, *, special_tokens: bool) -> Detokenizer:
        """A fresh incremental detokenizer that shows special tokens or hides them."""
        return self._makers[special_tokens]()

    def token_text(self, token_id: int) -> str:
        """What the token alone reads like inside a text; special tokens are shown."""
        return self._pieces.inside(token_id)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that the token adds to a text; none where tokens are not made of bytes."""
        with contextlib.suppress(ConstraintError):
            if token_id < self.size:
                return self._spellings[token_id]
        return b""


class HuggingFaceCodec:
    """A tokenizer's decoding, special tokens shown or hidden."""

    def __init__(self, tokenizer: Tokenizer, tokens: list[str], *, special_tokens: bool) -> None:
        self.tokens = tokens
        self.hidden_ids = frozenset() if special_tokens else tokenizer.special_ids
        self.has_byte_level = '"ByteLevel"' in tokenizer.decoder_description
        self.has_byte_fallback = '"ByteFallback"' in tokenizer.decoder_description
        self._tokenizer = tokenizer
        self._special_tokens = special_tokens

    def decode(self, token_ids: list[int]) -> str:
        """The text of the ids."""
        return self._tokenizer.decode(token_ids, special_tokens=self._special_tokens)


def _texts(value: object) -> Iterator[str]:
    """All texts inside a JSON value, from left to right."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield name
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _with_texts(value: Any, texts: Iterator[str]) -> Any:
    """The same value with these texts, from left to right."""
    if isinstance(value, str):
        return next(texts)
    if isinstance(value, dict):
        return {next(texts): _with_texts(item, texts) for item in value.values()}
    if isinstance(value, list):
        return [_with_texts(item, texts) for item in value]
    return value


def load_tokenizer(name: str) -> Tokenizer:
    """Load a local path or a hub id; no remote code."""
    backend = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    return Tokenizer(backend, _eos_token_ids(name, backend))


def _eos_token_ids(name: str, backend: Any) -> frozenset[int]:
    """End-of-sequence ids as `generate` finds them; else the tokenizer's own."""
    sources: list[Callable[[], Any]] = [
        lambda: GenerationConfig.from_pretrained(name).eos_token_id,
        lambda: AutoConfig.from_pretrained(name, trust_remote_code=False).eos_token_id,
        lambda: backend.eos_token_id,
    ]
    for source in sources:
        try:
            eos = source()
        except (OSError, ValueError, AttributeError):
            continue  # no such file, or a model without the notion
        ids = eos if isinstance(eos, list) else [eos]
        if found := frozenset(i for i in ids if i is not None):
            return found
    return frozenset()


def _special_ids(backend: Any) -> frozenset[int]:
    added = getattr(backend, "added_tokens_decoder", {})
    marked = {token_id for token_id, token in added.items() if token.special}
    return frozenset(marked | set(backend.all_special_ids))


def _fingerprint(vocabulary: dict[str, int]) -> str:
    described = json.dumps(sorted(vocabulary.items()), ensure_ascii=True)
    return hashlib.sha256(described.encode()).hexdigest()[:32]
