"""What a generation and a model look like to Python: plain frozen values, no protobuf."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

FinishReason = Literal["stop", "length", "shutdown"]
Source = Literal["unknown", "local", "namespace", "successors", "constraint"]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token and the natural log of its probability."""

    token_id: int
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log probabilities at one position, before temperature and filters."""

    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class DraftTree:
    """The draft that a step verified. `accepted` are the nodes whose tokens were emitted, in order.

    `parents[i]` is an earlier node, or -1 for a child of the last token before the step.
    """

    token_ids: tuple[int, ...]
    parents: tuple[int, ...]
    probabilities: tuple[float, ...]  # of lying on the accepted path
    sources: tuple[Source, ...]  # empty where the drafter does not say
    texts: tuple[str, ...]  # what each token alone reads like
    accepted: tuple[int, ...]


PartKind = Literal["content", "reasoning", "tool_call"]


@dataclass(frozen=True, slots=True)
class MessagePart:
    """A piece of what an answer is made of; pieces of one kind follow each other."""

    kind: PartKind
    text: str  # of a call: JSON of its arguments
    call_index: int = 0
    tool_name: str = ""  # in a call's first piece


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that an answer makes. The id is made here, to be sent back with the call's result."""

    name: str
    arguments: str  # JSON
    id: str


@dataclass(frozen=True, slots=True)
class TokenRun:
    """Tokens emitted in one step. The first `num_drafted` of them were drafted and accepted.

    The last run of a stream may hold no tokens, only text that was held back until the end.
    """

    first_index: int
    token_ids: tuple[int, ...]
    text: str
    num_drafted: int = 0
    drafted_text_len: int = 0
    sources: tuple[Source, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    parts: tuple[MessagePart, ...] = ()  # with `parts=True` or tools
    draft_tree: DraftTree | None = None  # with `draft_trees=True`, where something was drafted

    @property
    def drafted_text(self) -> str:
        """The leading part of `text` that comes from drafted tokens."""
        return self.text[: self.drafted_text_len]

    @property
    def own_text(self) -> str:
        """The rest of `text`: what the model added itself."""
        return self.text[self.drafted_text_len :]


@dataclass(frozen=True, slots=True)
class Started:
    """What the server is about to do."""

    request_id: str
    model: str
    model_fingerprint: str
    vocabulary_fingerprint: str
    num_prompt_tokens: int
    seed: int
    max_tokens: int
    speculation: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens read and written."""

    num_prompt_tokens: int = 0
    num_output_tokens: int = 0
    num_reused_tokens: int = 0  # leading prompt tokens whose cached rows were there already
    num_reasoning_tokens: int = 0  # of the output, with `parts=True` or tools


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time went, in milliseconds."""

    queue_ms: float = 0.0
    prefill_ms: float = 0.0
    decode_ms: float = 0.0
    # What decoding the same tokens without drafts would have taken, by the measured step times.
    plain_decode_ms: float = 0.0

    @property
    def gain(self) -> float:
        """How many times sooner the tokens came than without drafts; 0 where nothing says."""
        return _ratio(self.plain_decode_ms, self.decode_ms)


@dataclass(frozen=True, slots=True)
class SpeculationSummary:
    """What drafting did. `accept_len_histogram[n]` = steps that emitted n drafted tokens."""

    num_steps: int = 0
    num_drafts: int = 0
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0
    accept_len_histogram: tuple[int, ...] = ()

    @property
    def acceptance(self) -> float:
        """Share of the verified drafted tokens that were emitted."""
        return _ratio(self.num_accepted_tokens, self.num_draft_tokens)


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """A finished generation."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    usage: Usage = Usage()
    timings: Timings = Timings()
    speculation: SpeculationSummary = SpeculationSummary()
    stop_string: str | None = None
    stop_token_id: int | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()
    # What the text is made of, with `parts=True` or tools.
    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()

    @property
    def tokens_per_second(self) -> float:
        """Decoding speed. The first token comes with the prompt and is not counted."""
        return _ratio(1000 * (self.usage.num_output_tokens - 1), self.timings.decode_ms)

    @property
    def tokens_per_step(self) -> float:
        """Tokens emitted per forward pass while decoding; 1 without drafting."""
        return _ratio(self.usage.num_output_tokens - 1, self.speculation.num_steps)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The model served and the limits of its server."""

    model: str
    model_fingerprint: str
    vocabulary_fingerprint: str
    architecture: str
    vocabulary_size: int
    max_context_len: int
    max_sequences: int
    max_waiting: int
    max_nodes: int
    verification: str
    verification_reason: str
    has_chat_template: bool
    eos_token_ids: tuple[int, ...]
    device: str
    drafter_connected: bool
    bitwise: bool  # each row's bits are independent of the rest of its pass
    not_bitwise_reason: str
    attention: str  # how attention and products are computed
    launch: str  # how passes are launched
    launch_reason: str  # why no faster way of either was taken
    limits: Mapping[str, int]  # what the server takes at most, by name


# Role and content; with tools also tool_calls, tool_call_id and reasoning.
ChatMessage = Mapping[str, Any]


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0
