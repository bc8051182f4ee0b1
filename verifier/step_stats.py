"""What one step did and how long it took, for the controller and for whoever counts."""

from dataclasses import dataclass

from verifier.step import StepResult, Work


@dataclass(frozen=True, slots=True)
class StepStats:
    """Counts and seconds of one step."""

    num_decoding: int  # sequences past their prompt
    num_prompt_rows: int
    num_draft_nodes: int  # drafted tokens verified
    num_expected: float  # of them to be accepted: the sum of their calibrated probabilities
    num_accepted: int
    num_emitted: int  # tokens of decoding sequences
    is_drafting: bool  # drafts were asked for; perhaps none was worth verifying
    step_s: float  # from the end of the step before, waiting for drafts included
    forward_s: float
    draft_wait_s: float

    @classmethod
    def of(
        cls,
        works: list[Work],
        step: StepResult,
        *,
        num_emitted: int,
        is_drafting: bool,
        step_s: float,
        draft_wait_s: float,
    ) -> "StepStats":
        """Count a step's works and results."""
        num_decoding = sum(map(is_decoding, works))
        accepted = [result.accepted for result in step.results if result.accepted is not None]
        return cls(
            num_decoding=num_decoding,
            num_prompt_rows=sum(w.segment.num_rows for w in works if not is_decoding(w)),
            num_draft_nodes=sum(len(work.tree) for work in works),
            num_expected=sum(sum(work.tree.probabilities) for work in works),
            # Every decoding sequence emits one token more than it accepts, but for ends and
            # choices left open; neither may count more than was emitted.
            num_accepted=min(sum(len(a.path) for a in accepted), num_emitted),
            num_emitted=num_emitted,
            is_drafting=is_drafting,
            step_s=step_s,
            forward_s=step.forward_s,
            draft_wait_s=draft_wait_s,
        )


def is_decoding(work: Work) -> bool:
    """Whether the work is past its sequence's prompt."""
    return work.segment.tree is not None
