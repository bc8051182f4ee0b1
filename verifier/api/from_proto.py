"""From the wire to the domain: a request is checked here, once, and nowhere else.

Everything that can be said without tokenizing is checked first and reported together.
"""

import json
import secrets

from protos import verifier_pb2 as pb
from rpc.errors import InvalidRequest
from verifier.api.params import (
    check_output,
    check_speculation,
    check_stopping,
    parse_sampling,
    parse_speculation,
    parse_stopping,
)
from verifier.api.validation import (
    Limits,
    Violations,
    check_ids,
    check_input,
    check_len,
    encode_input,
)
from verifier.constraints.constraint import Constraint, ConstraintError, Kind
from verifier.constraints.grammar import Grammar
from verifier.request import Request
from verifier.sampling.params import SamplingParams
from verifier.sampling.sampler import BANNED
from verifier.text.stopping import StoppingParams
from verifier.text.tokenizer import Tokenizer

MAX_REQUEST_ID_CHARS = 128


def parse_generate(message: pb.GenerateRequest, tokenizer: Tokenizer, limits: Limits) -> Request:
    """Return the request, tokenized, or raise InvalidRequest naming what is wrong with it."""
    violations = Violations()
    _check_request_id(message.request_id, violations)
    check_input(message, limits, violations)
    sampling = parse_sampling(message.sampling, limits.vocabulary_size, violations)
    check_stopping(message.stopping, limits, violations)
    check_output(message.output, violations)
    check_speculation(message.speculation, limits, violations)
    check_constraint(message, violations)
    violations.raise_any()
    prompt = _prompt(message, tokenizer, limits)
    stopping = parse_stopping(
        message.stopping, limits.max_context - len(prompt), tokenizer.eos_token_ids, violations
    )
    _check_choice_left(sampling, stopping, limits, violations)
    _check_end_left(message, sampling, tokenizer, violations)
    violations.raise_any()
    return Request(
        request_id=message.request_id or secrets.token_hex(8),
        prompt_token_ids=prompt,
        sampling=sampling,
        stopping=stopping,
        speculation=parse_speculation(message.speculation, tokenizer, limits),
        logprobs=message.output.logprobs,
        num_top_logprobs=message.output.top_logprobs,
        special_tokens=message.output.special_tokens,
        grammar=_grammar(message, tokenizer),
        draft_trees=message.output.draft_trees,
    )


def parse_tokenize(
    message: pb.TokenizeRequest, tokenizer: Tokenizer, limits: Limits
) -> tuple[int, ...]:
    """Return the ids of the input, or raise InvalidRequest."""
    violations = Violations()
    check_input(message, limits, violations)
    violations.raise_any()
    return encode_input(message, tokenizer, special_tokens=not message.without_special_tokens)


def parse_detokenize(message: pb.DetokenizeRequest, tokenizer: Tokenizer, limits: Limits) -> str:
    """Return the text of the ids, or raise InvalidRequest."""
    violations = Violations()
    check_ids(message.token_ids, "token_ids", limits.vocabulary_size, violations)
    violations.raise_any()
    return tokenizer.decode(list(message.token_ids), special_tokens=message.special_tokens)


def _check_request_id(request_id: str, violations: Violations) -> None:
    violations.require(
        len(request_id) <= MAX_REQUEST_ID_CHARS and request_id.isprintable(),
        "request_id",
        f"must be at most {MAX_REQUEST_ID_CHARS} printable characters",
        request_id,
    )


def _check_choice_left(
    sampling: SamplingParams, stopping: StoppingParams, limits: Limits, violations: Violations
) -> None:
    banned = {token_id for token_id, bias in sampling.logit_bias if bias <= BANNED}
    banned |= stopping.ending_ids if stopping.min_tokens else set()
    problem = "bans every token, together with those that would end the output"
    violations.require(len(banned) < limits.vocabulary_size, "sampling.logit_bias", problem)


def _check_end_left(
    message: pb.GenerateRequest,
    sampling: SamplingParams,
    tokenizer: Tokenizer,
    violations: Violations,
) -> None:
    banned = {token_id for token_id, bias in sampling.logit_bias if bias <= BANNED}
    violations.require(
        not message.HasField("constraint") or not tokenizer.eos_token_ids <= banned,
        "sampling.logit_bias",
        "bans the end of the sequence, which a constraint needs",
    )


def _grammar(message: pb.GenerateRequest, tokenizer: Tokenizer) -> Grammar | None:
    if not message.HasField("constraint"):
        return None
    try:
        return tokenizer.grammars.compile(parse_constraint(message.constraint))
    except ConstraintError as error:
        kind = message.constraint.WhichOneof("kind")
        raise InvalidRequest.at(f"constraint.{kind}", str(error)) from error


def _prompt(message: pb.GenerateRequest, tokenizer: Tokenizer, limits: Limits) -> tuple[int, ...]:
    prompt = encode_input(message, tokenizer, special_tokens=True)
    field = str(message.WhichOneof("input"))
    if not 0 < len(prompt) < limits.max_context:
        needed = f"must have 1 to {limits.max_context - 1} tokens, to leave room in the context"
        raise InvalidRequest.at(field, needed, len(prompt))
    outside = [token_id for token_id in prompt if token_id >= limits.vocabulary_size]
    if outside:
        raise InvalidRequest.at(field, "has a token that this model does not know", outside[0])
    return prompt


MAX_SCHEMA_BYTES = 1 << 16
MAX_SCHEMA_DEPTH = 64
MAX_REGEX_BYTES = 1 << 13
MAX_CHOICES = 256
MAX_CHOICE_BYTES = 1 << 10


def check_constraint(message: pb.GenerateRequest, violations: Violations) -> None:
    """Check all that can be said without compiling; a request without constraint is right."""
    if not message.HasField("constraint"):
        return
    constraint = message.constraint
    kind = constraint.WhichOneof("kind")
    if kind == "json_schema":
        _check_schema(constraint.json_schema, violations)
    elif kind == "regex":
        violations.require(bool(constraint.regex), "constraint.regex", "must not be empty")
        check_len(constraint.regex, "constraint.regex", MAX_REGEX_BYTES, violations)
    elif kind == "choices":
        _check_choices(constraint.choices, violations)
    else:
        violations.require(False, "constraint", "is empty: set json_schema, regex or choices")
    violations.require(
        not message.stopping.ignore_eos,
        "stopping.ignore_eos",
        "cannot be set with a constraint, which itself ends the output",
    )


def parse_constraint(message: pb.Constraint) -> Constraint:
    """Return a checked `message`."""
    kind = Kind(message.WhichOneof("kind"))
    if kind is Kind.JSON_SCHEMA:
        return Constraint(kind, (message.json_schema,))
    if kind is Kind.REGEX:
        return Constraint(kind, (message.regex,))
    return Constraint(kind, tuple(dict.fromkeys(message.choices.texts)))


def _check_schema(text: str, violations: Violations) -> None:
    field = "constraint.json_schema"
    if not check_len(text, field, MAX_SCHEMA_BYTES, violations):
        return
    try:
        schema = json.loads(text, parse_constant=_refuse_constant)
    except ValueError as error:
        violations.require(False, field, f"must be JSON: {error}", text)
        return
    except RecursionError:
        schema = None
    is_shallow = schema is not None and _depth_is_within(schema, MAX_SCHEMA_DEPTH)
    violations.require(is_shallow, field, f"must be nested at most {MAX_SCHEMA_DEPTH} deep")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")


def _depth_is_within(value: object, limit: int) -> bool:
    """Whether arrays and objects are nested at most so deep; recursion ends at the limit."""
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        return True
    return limit > 0 and all(_depth_is_within(item, limit - 1) for item in value)


def _check_choices(choices: pb.Choices, violations: Violations) -> None:
    field, count = "constraint.choices.texts", len(choices.texts)
    if not violations.require(
        0 < count <= MAX_CHOICES, field, f"must be 1 to {MAX_CHOICES} texts", count
    ):
        return
    for i, text in enumerate(choices.texts):
        violations.require(bool(text), f"{field}[{i}]", "must not be empty")
        check_len(text, f"{field}[{i}]", MAX_CHOICE_BYTES, violations)
