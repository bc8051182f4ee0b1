"""Constraints compiled for one vocabulary, and matchers that follow an output token by token.

The only file that knows llguidance. Compiling takes milliseconds to a second, bounded by the
limits below, and belongs off the event loop.
"""

import json
import random
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from llguidance.gbnf_to_lark import GbnfToLarkError, gbnf_to_lark
from numpy.typing import NDArray

from verifier.constraints.constraint import Constraint, ConstraintError, Kind

MAX_COMPILED = 32  # grammars kept for the next request with the same constraint
# States of a lexer take 1 to 2 kB each. Errors are shown to clients: no internals.
LIMITS = LLParserLimits(max_lexer_states=50_000, verbose_errors=False)
# One space, or a new line and its indentation: a model cannot go on with white space forever.
SCHEMA_DEFAULTS: Any = {"whitespace_pattern": r"[ ]?|\n[ \t]{0,40}"}
NUM_PROBES = 200


class MatchError(RuntimeError):
    """The grammar became too complex to follow in the middle of an output."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens as outputs show them."""

    size: int
    eos_token_ids: frozenset[int]
    odd_ids: frozenset[int] = frozenset()  # read otherwise than they are spelled: never allowed


class ConstraintMatcher:
    """Follows one output. Anything may follow its end, since nothing of that is emitted."""

    def __init__(self, matcher: LLMatcher, vocabulary: "Vocabulary") -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._is_over = False

    def allows(self, token_id: int) -> bool:
        """Whether the token may come next; cheaper than `allowed`."""
        if self._is_over:
            return True
        if token_id in self._vocabulary.eos_token_ids:  # which the matcher itself never consumes
            return self._matcher.is_accepting()
        # An id that is no token, as models with spare rows may choose, would break the matcher.
        if token_id >= self._vocabulary.size or token_id in self._vocabulary.odd_ids:
            return False
        # Where the text ahead is certain, the mask has one token of all that spell its beginning.
        if forced := self._matcher.compute_ff_tokens():
            return token_id == forced[0]
        return self._matcher.validate_tokens([token_id]) == 1

    def allowed(self, size: int) -> NDArray[np.bool_]:
        """Which of the first `size` token ids may come next."""
        if self._is_over:
            return np.ones(size, bool)
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        found = np.unpackbits(bits, bitorder="little")[:size].view(bool)
        found = np.pad(found, (0, size - len(found)))
        found[[i for i in self._vocabulary.odd_ids if i < size]] = False
        return found

    def choices(self, limit: int) -> list[int]:
        """Ids that may come next; none where it is over, is broken or leaves more than `limit`."""
        if self._is_over:
            return []
        if forced := self._matcher.compute_ff_tokens():
            return [i for i in forced[:1] if self.allows(i)]
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        if self._matcher.is_error() or np.bitwise_count(bits).sum() > limit:
            return []
        found = np.flatnonzero(np.unpackbits(bits, bitorder="little")).tolist()
        return [i for i in found if self.allows(i)]

    def after(self, token_id: int) -> "ConstraintMatcher":
        """Return a matcher past one more token; this one stays where it is."""
        copy = ConstraintMatcher(self._matcher.deep_copy(), self._vocabulary)
        try:
            copy.push(token_id)
        except MatchError:
            copy._is_over = True  # too complex to look any further; nothing is drafted from there
        return copy

    def push(self, token_id: int) -> None:
        """Move on past an allowed token."""
        if self._is_over:
            return
        self._is_over = token_id in self._vocabulary.eos_token_ids
        if not self._is_over:
            self._matcher.consume_token(token_id)
            self._check()

    def _check(self) -> None:
        if error := self._matcher.get_error():
            raise MatchError(f"the constraint cannot be followed any further: {error}")


@dataclass(frozen=True, slots=True, eq=False)
class Grammar:
    """A compiled constraint."""

    constraint: Constraint
    vocabulary: Vocabulary
    matcher: LLMatcher  # at the beginning of an output; only ever copied

    def start(self) -> ConstraintMatcher:
        """Return a matcher at the beginning of an output."""
        return ConstraintMatcher(self.matcher.deep_copy(), self.vocabulary)


class Grammars:
    """Compiles constraints for one tokenizer. Call it from one thread at a time."""

    def __init__(
        self,
        names: Sequence[bytes],
        eos_token_ids: frozenset[int],
        *,
        special_ids: frozenset[int],
        added_ids: frozenset[int],
        encode: Callable[[str], list[int]],
        decode: Callable[[list[int]], str],
    ) -> None:
        """`names`: what each token spells, by id. `added_ids`: tokens with a spelling of their
        own, special ones or not.

        Raises ConstraintError where outputs of this tokenizer cannot be constrained.
        """
        size = len(names)
        self._names = names
        self._tokenizer = _compiled_tokenizer(_Names(names, special_ids, encode), eos_token_ids)
        hidden = added_ids | special_ids
        ordinary = [i for i, name in enumerate(names) if name and i not in hidden]
        self._drops_space = self._finds_dropped_space(ordinary, decode)
        self._check_texts(ordinary, decode)
        odd_ids = self._odd_ids(added_ids - special_ids, ordinary, decode)
        self._vocabulary = Vocabulary(size, eos_token_ids, odd_ids)
        self._compiled: OrderedDict[Constraint, Grammar] = OrderedDict()

    def compile(self, constraint: Constraint) -> Grammar:
        """Return the grammar, or raise ConstraintError with the reason."""
        if constraint not in self._compiled:
            self._compiled[constraint] = self._compile(constraint)
        self._compiled.move_to_end(constraint)
        if len(self._compiled) > MAX_COMPILED:
            self._compiled.popitem(last=False)
        return self._compiled[constraint]

    def _compile(self, constraint: Constraint) -> Grammar:
        grammar = self._grammar(constraint, prefix="")
        starts = self._starts(grammar)
        if not self._drops_space:
            return grammar
        # A leading space is not shown: where the form may begin with one it needs another,
        # elsewhere it is free to come.
        is_answer = constraint.kind is Kind.ANSWER  # whose free text needs no second space
        may_begin = not is_answer and any(self._names[i].startswith(b" ") for i in starts)
        return self._grammar(constraint, prefix='" "' if may_begin else '" "?')

    def _grammar(self, constraint: Constraint, *, prefix: str) -> Grammar:
        lark = LLMatcher.grammar_from_lark(_lark(constraint, prefix=prefix))
        matcher = LLMatcher(self._tokenizer, lark, log_level=0, limits=LIMITS)
        if error := matcher.get_error():
            raise ConstraintError(_reason(error))
        return Grammar(constraint, self._vocabulary, matcher)

    def _starts(self, grammar: Grammar) -> list[int]:
        """The tokens that may come first."""
        try:
            starts = np.flatnonzero(grammar.start().allowed(self._vocabulary.size))
            return [int(token_id) for token_id in starts]
        except MatchError as error:
            raise ConstraintError("allows no output, or is too complex") from error

    def _finds_dropped_space(
        self, ordinary: Sequence[int], decode: Callable[[list[int]], str]
    ) -> bool:
        spaced = (i for i in ordinary if re.fullmatch(rb" [!-~]+", self._names[i]))
        token_id = next(spaced, None)
        return token_id is not None and not decode([token_id]).startswith(" ")

    def _check_texts(self, ordinary: Sequence[int], decode: Callable[[list[int]], str]) -> None:
        """Texts must be the bytes of their tokens; a probe finds out."""
        rng = random.Random(0)
        for _ in range(NUM_PROBES):
            ids = [rng.choice(ordinary) for _ in range(rng.randint(1, 8))]
            shown, spelled = decode(ids), self._spelled(ids)
            # Bytes that are no text are never allowed.
            if spelled is not None and shown != spelled:
                problem = f"{shown!r} is not made of its tokens' texts, {spelled!r}"
                raise ConstraintError(f"not possible with this model's tokenizer: {problem}")

    def _odd_ids(
        self, added: Iterable[int], ordinary: Sequence[int], decode: Callable[[list[int]], str]
    ) -> frozenset[int]:
        """Added tokens that read otherwise than they are spelled, at the beginning or later."""
        before = next(i for i in ordinary if self._names[i].isalpha())
        return frozenset(
            i for i in added if any(decode(ids) != self._spelled(ids) for ids in ([i], [before, i]))
        )

    def _spelled(self, ids: list[int]) -> str | None:
        """The text that the tokens' bytes make; None where they make none."""
        try:
            text = self._tokenizer.decode_bytes(ids).decode()
        except UnicodeDecodeError:
            return None
        return text.removeprefix(" ") if self._drops_space else text


class _Names:
    """A vocabulary as llguidance asks for it."""

    bos_token_id = None

    def __init__(
        self,
        names: Sequence[bytes],
        special_ids: frozenset[int],
        encode: Callable[[str], list[int]],
    ) -> None:
        self.tokens = names
        self.special_token_ids = sorted(special_ids)
        self.eos_token_id = 0  # the real ones are handed over beside it
        self._encode = encode

    def __call__(self, text: str) -> list[int]:
        """Ids of a text in the middle of another one."""
        if isinstance(text, bytes):
            raise TypeError("text is wanted")  # how llguidance finds out
        return self._encode(text)


def _compiled_tokenizer(names: _Names, eos_token_ids: frozenset[int]) -> LLTokenizer:
    if not eos_token_ids:
        raise ConstraintError("not possible with this model, which has no end-of-sequence token")
    wrapper = TokenizerWrapper(names)
    # With one slice the masks of free text take 0.1 instead of 4 ms; more take longer to make.
    return LLTokenizer(wrapper, n_vocab=len(names.tokens), eos_token=sorted(eos_token_ids))


def _lark(constraint: Constraint, *, prefix: str) -> str:
    """The grammar in llguidance's language, after a `prefix` of it."""
    if constraint.kind is Kind.ANSWER:
        return f"start: {prefix} body\n{constraint.texts[0]}"
    if constraint.kind is Kind.JSON_SCHEMA:
        # Written anew, so that nothing but one JSON value gets into the grammar.
        schema = json.loads(constraint.texts[0])
        if isinstance(schema, dict):
            schema = {"x-guidance": SCHEMA_DEFAULTS} | schema
        return f"start: {prefix} body\nbody: %json {json.dumps(schema)}"
    if constraint.kind is Kind.GRAMMAR:
        return f"start: {prefix} body\nbody: {nested(constraint.texts[0])}"
    if constraint.kind is Kind.REGEX:
        pattern = constraint.texts[0]
    else:
        pattern = "|".join(map(re.escape, constraint.texts))
    return f"start: {prefix} BODY\nBODY: {_quoted(pattern)}"


def nested(grammar: str) -> str:
    """A grammar as the right side of a rule of another one."""
    if "::=" in grammar:
        try:
            grammar = gbnf_to_lark(grammar)
        except GbnfToLarkError as error:
            raise ConstraintError(str(error)[:400]) from error
    # Its end stands on a line of its own, so that no comment hides it.
    return f"%lark {{\n{grammar}\n}}"


def _quoted(pattern: str) -> str:
    """The expression between slashes, on one line."""
    return "/" + re.sub(r"\\.|/|\n", _quoted_part, pattern, flags=re.DOTALL) + "/"


def _quoted_part(match: re.Match[str]) -> str:
    return {"/": r"\/", "\n": r"\n", "\\\n": r"\n"}.get(match[0], match[0])


def _reason(error: str) -> str:
    """llguidance's reason without the lines that show where it stands in our grammar."""
    lines = [line for line in error.splitlines() if not re.match(r"\s*(\d+ \||\^)", line)]
    text = " ".join(" ".join(lines).split())
    return re.sub(r"^at \d+\(\d+\): |failed to compile JSON schema: ", "", text)[:400]
