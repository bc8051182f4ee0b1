"""What a running sequence tells its client: runs of tokens, then one completion.

Runs of the prompt come before them, where they are asked for.
"""

from dataclasses import dataclass
from typing import TypeAlias

from verifier.sampling.ranking import TokenLogprobs
from verifier.speculation.tree import DraftTree
from verifier.text.stopping import Finish


@dataclass(frozen=True, slots=True)
class TokenRun:
    """Tokens emitted in one step. `num_drafted` of them, from the first on, were drafted."""

    first_index: int
    token_ids: tuple[int, ...]
    text: str
    num_drafted: int = 0
    drafted_text_len: int = 0
    logprobs: tuple[TokenLogprobs, ...] = ()
    sources: tuple[int, ...] = ()
    draft: "VerifiedDraft | None" = None  # where it was asked for and there was one


@dataclass(frozen=True, slots=True)
class VerifiedDraft:
    """The tree that a step verified, and the nodes of it that were emitted, from the root down."""

    tree: DraftTree
    accepted: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PromptRun:
    """Tokens of the prompt; the first of all has no log probability, since it follows nothing."""

    first_index: int
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...]


@dataclass(frozen=True, slots=True)
class Completion:
    """The end of a sequence and what it took. Times in milliseconds."""

    finish: Finish
    text: str
    num_prompt_tokens: int
    num_output_tokens: int
    num_reused_tokens: int
    queue_ms: float
    prefill_ms: float
    decode_ms: float
    plain_decode_ms: float  # without drafts, by the measured step times
    num_steps: int
    num_drafts: int
    num_draft_tokens: int
    num_accepted_tokens: int
    accept_len_histogram: tuple[int, ...]


Event: TypeAlias = PromptRun | TokenRun | Completion
