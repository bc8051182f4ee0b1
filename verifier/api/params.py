"""How to generate: sampling, stopping and speculation from the wire, checked field by field.

A temperature too small to divide by is greedy. Limits on nodes and depth above the server's own
are clamped, since they change the speed only; nothing that changes the text is.
"""

import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from protos import verifier_pb2 as pb
from rpc.contract import LEAVES_ROOM, Learn, problem_with_name
from verifier.api.validation import Limits, Violations, check_ids, check_len
from verifier.request import Mode, Speculation
from verifier.sampling.params import SamplingParams
from verifier.text.stopping import StoppingParams
from verifier.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

MAX_BIASES = 1024
LEAST_TOP_P = 1e-6  # keeps the most probable token alone, as 0 is meant to
MAX_STOP_STRINGS = 32
MAX_STOP_STRING_BYTES = 256
MAX_STOP_IDS = 32
MAX_TOP_LOGPROBS = 20
MAX_NODES = 64  # that a request may name
MAX_PREDICTION_TOKENS = 1 << 16
DEFAULT_MAX_TOKENS = 1024
DEFAULT_NAMESPACE = "default"


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from low to high; NaN is outside of every range."""

    low: float
    high: float
    excludes_low: bool = False

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high and not (self.excludes_low and value == self.low)

    def __str__(self) -> str:
        low, high = f"{self.low:g}", f"{self.high:g}"
        return f"above {low} and at most {high}" if self.excludes_low else f"{low} to {high}"


SAMPLING_RANGES = {
    "temperature": Range(0, 100),
    "top_p": Range(0, 1),
    "min_p": Range(0, 1),
    "repetition_penalty": Range(0, 10, excludes_low=True),
    "frequency_penalty": Range(-2, 2),
    "presence_penalty": Range(-2, 2),
}
BIAS_RANGE = Range(-100, 100)


def usable_defaults(recommended: Mapping[str, float]) -> dict[str, float]:
    """What of a model's own recommendations a request may have, with a log line for the rest."""
    ranges = SAMPLING_RANGES | {"top_k": Range(-1, 1 << 31)}  # -1 keeps all, as 0 does
    usable = {name: value for name, value in recommended.items() if value in ranges[name]}
    for name in recommended.keys() - usable.keys():
        logger.warning("recommendation_ignored %s=%s", name, recommended[name])
    return usable


def parse_sampling(message: pb.Sampling, limits: Limits, violations: Violations) -> SamplingParams:
    """Check how tokens are chosen; an unset seed is drawn."""
    numbers: dict[str, float] = {}
    if message.model_defaults:
        numbers = {"temperature": 1.0} | dict(limits.recommended)
    top_k = message.top_k if message.HasField("top_k") else max(0, int(numbers.get("top_k", 0)))
    numbers.pop("top_k", None)
    for name, allowed in SAMPLING_RANGES.items():
        if message.HasField(name):  # type: ignore[arg-type]  # the stub lists literals
            numbers[name] = getattr(message, name)
            violations.require(
                numbers[name] in allowed, f"sampling.{name}", f"must be {allowed}", numbers[name]
            )
    if "top_p" in numbers:
        numbers["top_p"] = max(numbers["top_p"], LEAST_TOP_P)
    return SamplingParams(
        **numbers,
        top_k=min(top_k, limits.vocabulary_size),
        logit_bias=_parse_biases(message, limits.vocabulary_size, violations),
        seed=message.seed if message.HasField("seed") else secrets.randbits(64),
    )


def _parse_biases(
    message: pb.Sampling, vocabulary_size: int, violations: Violations
) -> tuple[tuple[int, float], ...]:
    field = "sampling.logit_bias"
    count = len(message.logit_bias)
    if not violations.require(
        count <= MAX_BIASES, field, f"must hold at most {MAX_BIASES} entries", count
    ):
        return ()
    biases = tuple(sorted(message.logit_bias.items()))
    for token_id, bias in biases:
        entry, problem = f"{field}[{token_id}]", f"must be for a token id below {vocabulary_size}"
        violations.require(token_id < vocabulary_size, entry, problem, token_id)
        violations.require(bias in BIAS_RANGE, entry, f"must be {BIAS_RANGE}", bias)
    return biases


def check_stopping(request: pb.GenerateRequest, limits: Limits, violations: Violations) -> None:
    """Check when to stop, as far as that does not depend on the prompt."""
    message = request.stopping
    may_be_none = request.output.HasField("prompt_logprobs")
    if message.HasField("max_tokens"):
        violations.require(
            (message.max_tokens > 0 or may_be_none)
            and (limits.clamps or message.max_tokens < limits.max_context),
            "stopping.max_tokens",
            f"must be 1 to {limits.max_context - 1} {LEAVES_ROOM} of {limits.max_context}",
            message.max_tokens,
        )
    _check_stop_strings(message, violations)
    num_ids = len(message.stop_token_ids)
    field = "stopping.stop_token_ids"
    if violations.require(
        num_ids <= MAX_STOP_IDS, field, f"must hold at most {MAX_STOP_IDS} ids", num_ids
    ):
        check_ids(message.stop_token_ids, field, limits.vocabulary_size, violations)


def _check_stop_strings(message: pb.Stopping, violations: Violations) -> None:
    field, count = "stopping.stop_strings", len(message.stop_strings)
    if not violations.require(
        count <= MAX_STOP_STRINGS, field, f"must hold at most {MAX_STOP_STRINGS} strings", count
    ):
        return
    for i, stop_string in enumerate(message.stop_strings):
        violations.require(bool(stop_string), f"{field}[{i}]", "must not be empty")
        check_len(stop_string, f"{field}[{i}]", MAX_STOP_STRING_BYTES, violations)


def parse_stopping(
    message: pb.Stopping,
    room: int,
    eos_token_ids: frozenset[int],
    limits: Limits,
    violations: Violations,
) -> StoppingParams:
    """Return a checked `message` with its defaults filled in for an output of at most `room`."""
    max_tokens = min(DEFAULT_MAX_TOKENS, room)
    if message.HasField("max_tokens"):
        max_tokens = min(message.max_tokens, room) if limits.clamps else message.max_tokens
        used = limits.max_context - room
        problem = (
            f"must be at most {room} {LEAVES_ROOM} of {limits.max_context}, "
            f"of which the prompt takes {used}"
        )
        violations.require(max_tokens <= room, "stopping.max_tokens", problem, max_tokens)
    violations.require(
        message.min_tokens <= max_tokens,
        "stopping.min_tokens",
        f"must be at most max_tokens, {max_tokens}",
        message.min_tokens,
    )
    return StoppingParams(
        max_tokens=max_tokens,
        min_tokens=message.min_tokens,
        stop_strings=tuple(dict.fromkeys(message.stop_strings)),
        stop_token_ids=frozenset(message.stop_token_ids),
        eos_token_ids=frozenset() if message.ignore_eos else eos_token_ids,
        include_stop_string=message.include_stop_string,
    )


def check_output(request: pb.GenerateRequest, violations: Violations) -> None:
    """Check what to return besides the text."""
    message = request.output
    has_parts = request.WhichOneof("input") == "chat" or not message.parts
    violations.require(has_parts, "output.parts", "needs chat messages")
    for name in ("top_logprobs", "prompt_logprobs"):
        count: int = getattr(message, name)
        problem = f"must be at most {MAX_TOP_LOGPROBS}"
        violations.require(count <= MAX_TOP_LOGPROBS, f"output.{name}", problem, count)
    violations.require(
        message.logprobs or not message.top_logprobs, "output.top_logprobs", "needs output.logprobs"
    )


def check_speculation(message: pb.Speculation, limits: Limits, violations: Violations) -> None:
    """Check how drafting is used."""
    for field, known in (("mode", Mode), ("learn", Learn)):
        number = getattr(message, field)  # 0 takes the default
        is_known = number == 0 or number in set(known)
        violations.require(is_known, f"speculation.{field}", "is unknown", number)
    for name in ("max_nodes", "max_depth"):
        value = getattr(message, name)
        violations.require(
            not message.HasField(name) or 0 < value <= MAX_NODES,
            f"speculation.{name}",
            f"must be 1 to {MAX_NODES}",
            value,
        )
    problem = problem_with_name(message.namespace, may_be_empty=True)
    violations.require(problem is None, "speculation.namespace", problem or "", message.namespace)
    check_len(message.prediction, "speculation.prediction", limits.max_text_bytes, violations)


def parse_speculation(message: pb.Speculation, tokenizer: Tokenizer, limits: Limits) -> Speculation:
    """Return a checked `message` with its defaults filled in."""
    allows_drafts = limits.allows_drafts and limits.max_nodes > 0
    prediction = tokenizer.encode(message.prediction, special_tokens=False)
    return Speculation(
        mode=Mode(message.mode or Mode.AUTO) if allows_drafts else Mode.OFF,
        max_nodes=min(message.max_nodes or MAX_NODES, limits.max_nodes),
        max_depth=min(message.max_depth or MAX_NODES, limits.max_depth),
        namespace=message.namespace or DEFAULT_NAMESPACE,
        learn=Learn(message.learn or Learn.ALL),
        # What is beyond the context cannot be in the output.
        prediction=tuple(prediction[: min(limits.max_context, MAX_PREDICTION_TOKENS)]),
    )
