"""A request as the engine takes it: validated, defaults filled in, tokenized."""

import enum
from dataclasses import dataclass

from rpc.contract import Learn
from verifier.chat.format import AnswerForm
from verifier.constraints.grammar import Grammar
from verifier.sampling.params import SamplingParams
from verifier.text.stopping import StoppingParams


class Mode(enum.IntEnum):
    """Shape of the drafts; numbered as in the contract."""

    AUTO = 1
    OFF = 2
    CHAIN = 3
    TREE = 4


@dataclass(frozen=True, slots=True)
class Speculation:
    """How drafts are used for one request."""

    mode: Mode = Mode.AUTO
    max_nodes: int = 24
    max_depth: int = 24
    namespace: str = "default"
    learn: Learn = Learn.ALL
    prediction: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """One generation."""

    request_id: str
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams
    stopping: StoppingParams
    speculation: Speculation = Speculation()
    logprobs: bool = False
    num_top_logprobs: int = 0
    num_prompt_logprobs: int | None = None  # None: the prompt's own are not wanted
    special_tokens: bool = False
    grammar: Grammar | None = None  # a form that the output must have
    answer: AnswerForm | None = None  # what the output is taken apart by, if that is wanted
    draft_trees: bool = False  # return each step's tree, for display
    account: str = ""  # who pays for it; empty: all who are not told apart
    traceparent: str = ""  # the span that the drafter goes on with; empty without tracing
