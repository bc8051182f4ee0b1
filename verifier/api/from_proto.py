"""From the wire to the domain: a request is checked here, once, and nowhere else.

Everything that can be said without tokenizing is checked first and reported together.
"""

import json
import secrets
from dataclasses import replace

from protos import verifier_pb2 as pb
from rpc.contract import LEAVES_ROOM, problem_with_name
from rpc.errors import InvalidRequest
from verifier.api.chat import parse_conversation, parse_tool_use
from verifier.api.constraint import check_constraint, is_constrained, parse_constraint
from verifier.api.params import (
    check_output,
    check_speculation,
    check_stopping,
    parse_sampling,
    parse_speculation,
    parse_stopping,
)
from verifier.api.prompt import check_input, encode_input
from verifier.api.validation import Limits, Violations, check_ids
from verifier.chat.format import AnswerForm, ChatFormat
from verifier.chat.tools import ToolUse
from verifier.constraints.constraint import Constraint, ConstraintError, Kind
from verifier.constraints.grammar import Grammar
from verifier.request import Request
from verifier.sampling.params import SamplingParams
from verifier.sampling.sampler import BANNED
from verifier.text.stopping import StoppingParams
from verifier.text.tokenizer import Tokenizer

MAX_REQUEST_ID_CHARS = 128


def parse_generate(message: pb.GenerateRequest, chat: ChatFormat, limits: Limits) -> Request:
    """Return the request, tokenized, or raise InvalidRequest naming what is wrong with it."""
    violations, tokenizer = Violations(), chat.tokenizer
    _check_request_id(message.request_id, violations)
    problem = problem_with_name(message.account, may_be_empty=True)
    violations.require(problem is None, "account", problem or "", message.account)
    check_input(message, limits, violations)
    sampling = parse_sampling(message.sampling, limits, violations)
    check_stopping(message, limits, violations)
    check_output(message, violations)
    check_speculation(message.speculation, limits, violations)
    check_constraint(message, violations)
    violations.raise_any()
    prompt = _prompt(message, chat, limits)
    stopping = parse_stopping(
        message.stopping,
        limits.max_context - len(prompt),
        tokenizer.eos_token_ids,
        limits,
        violations,
    )
    _check_choice_left(sampling, stopping, limits, violations)
    _check_end_left(message, sampling, tokenizer, violations)
    violations.raise_any()
    use = parse_tool_use(message.chat, parse_conversation(message.chat))
    is_plain, parts = not message.output.special_tokens, message.output.parts
    answer = chat.answer(use, prompt, hides_special=is_plain)
    shows_special = chat.shows_special and (parts or bool(use.callable))
    if not (message.output.special_tokens or shows_special):
        stopping = replace(stopping, stop_tokens=_stop_tokens(stopping, tokenizer))
    return Request(
        request_id=message.request_id or secrets.token_hex(8),
        prompt_token_ids=prompt,
        sampling=sampling,
        stopping=stopping,
        speculation=parse_speculation(message.speculation, tokenizer, limits),
        logprobs=message.output.logprobs,
        num_top_logprobs=message.output.top_logprobs,
        num_prompt_logprobs=_num_prompt_logprobs(message.output),
        special_tokens=message.output.special_tokens or shows_special,
        grammar=_grammar(message, answer, chat),
        answer=answer if parts else None,
        draft_trees=message.output.draft_trees,
        account=message.account,
    )


def parse_tokenize(
    message: pb.TokenizeRequest, chat: ChatFormat, limits: Limits
) -> tuple[int, ...]:
    """Return the ids of the input, or raise InvalidRequest."""
    violations = Violations()
    check_input(message, limits, violations)
    violations.raise_any()
    return encode_input(message, chat, special_tokens=not message.without_special_tokens)


def parse_detokenize(message: pb.DetokenizeRequest, limits: Limits) -> list[int]:
    """Return the ids, or raise InvalidRequest."""
    violations = Violations()
    check_ids(message.token_ids, "token_ids", limits.vocabulary_size, violations)
    violations.raise_any()
    return list(message.token_ids)


def _stop_tokens(stopping: StoppingParams, tokenizer: Tokenizer) -> dict[int, str]:
    found = tokenizer.special_tokens_in(stopping.stop_strings)
    return {i: token for token, i in found.items() if token in stopping.stop_strings}


def _num_prompt_logprobs(message: pb.Output) -> int | None:
    return message.prompt_logprobs if message.HasField("prompt_logprobs") else None


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
        not is_constrained(message) or not tokenizer.eos_token_ids <= banned,
        "sampling.logit_bias",
        "bans the end of the sequence, which a constraint needs",
    )


def _grammar(message: pb.GenerateRequest, answer: AnswerForm, chat: ChatFormat) -> Grammar | None:
    constraint = parse_constraint(message.constraint) if message.HasField("constraint") else None
    if message.output.parts or answer.use.tools:
        constraint = chat.constraint(answer, constraint)
    if constraint is None:
        return None
    try:
        return chat.tokenizer.grammars.compile(constraint)
    except ConstraintError as error:
        raise InvalidRequest.at(_blamed(message, answer.use, chat), str(error)) from error


def _blamed(message: pb.GenerateRequest, use: ToolUse, chat: ChatFormat) -> str:
    """The field that makes a grammar impossible: the first of them that does so alone."""
    for i, tool in enumerate(use.tools):
        try:
            chat.tokenizer.grammars.compile(
                Constraint(Kind.JSON_SCHEMA, (json.dumps(tool.schema),))
            )
        except ConstraintError:
            return f"chat.tools[{i}].parameters"
    kind = message.constraint.WhichOneof("kind")
    return "chat.tools" if kind is None else f"constraint.{kind}"


def _prompt(message: pb.GenerateRequest, chat: ChatFormat, limits: Limits) -> tuple[int, ...]:
    prompt = encode_input(message, chat, special_tokens=True)
    field = str(message.WhichOneof("input"))
    if not 0 < len(prompt) < limits.max_context:
        needed = f"must have 1 to {limits.max_context - 1} tokens, {LEAVES_ROOM}"
        raise InvalidRequest.at(field, needed, len(prompt))
    outside = [token_id for token_id in prompt if token_id >= limits.vocabulary_size]
    if outside:
        raise InvalidRequest.at(field, "has a token that this model does not know", outside[0])
    return prompt
