"""Proof on the user's own prompts: drafting changes no token and no bit of a log probability."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from lookahead.client.client import Client
from lookahead.client.requests import GenerateParams
from lookahead.client.results import GenerationResult, ModelInfo
from lookahead.commands.compare import Comparison
from lookahead.terminal.samples import Sample

SAMPLED: GenerateParams = {"temperature": 0.8, "top_p": 0.95}


@dataclass(frozen=True, slots=True)
class Finding:
    """One prompt, decoded one way, plain and with drafts of one kind."""

    prompt: str
    decoding: str
    drafts: str
    comparison: Comparison
    # Where drafting differs: whether plain decoding at least agrees with itself.
    is_plain_repeatable: bool = True

    @property
    def num_compared(self) -> int:
        """Tokens that were compared."""
        return len(self.comparison.plain.token_ids)

    @property
    def first_other_bits(self) -> int | None:
        """Index of the first token whose log probability differs; None where none does."""
        plain, drafted = self.comparison.plain.logprobs, self.comparison.drafted.logprobs
        pairs = enumerate(zip(plain, drafted, strict=False))
        return next((i for i, (one, other) in pairs if one != other), None)

    @property
    def is_identical(self) -> bool:
        """Whether tokens and log probabilities are the same."""
        return self.comparison.is_identical and self.first_other_bits is None


def check_sample(
    client: Client, sample: Sample, *, max_tokens: int, seed: int
) -> Iterator[Finding]:
    """Compare plain decoding with each kind of drafts, greedy and sampled."""
    decodings: dict[str, GenerateParams] = {"greedy": {}, f"seed {seed}": SAMPLED}
    for decoding, sampling in decodings.items():
        plain_way: GenerateParams = {
            **sampling,
            "seed": seed,
            "max_tokens": max_tokens,
            "speculation": "off",
            "learn": "none",
            "logprobs": True,
        }
        plain = client.generate(sample.text, **plain_way).wait()
        for drafts, speculation in draft_kinds(plain.text).items():
            drafted_way: GenerateParams = {**plain_way, **speculation}
            drafted = client.generate(sample.text, **drafted_way).wait()
            comparison = Comparison(sample.name, plain, drafted)
            finding = Finding(sample.name, decoding, drafts, comparison)
            if not finding.is_identical:
                again = client.generate(sample.text, **plain_way).wait()
                finding = replace(finding, is_plain_repeatable=_are_equal(plain, again))
            yield finding


def _are_equal(one: GenerationResult, other: GenerationResult) -> bool:
    return (one.token_ids, one.logprobs) == (other.token_ids, other.logprobs)


def draft_kinds(plain_text: str) -> dict[str, GenerateParams]:
    """Return the kinds of drafts to try: what users get, then the longest runs to be had."""
    return {
        "auto": {"speculation": "auto"},
        "tree": {"speculation": "tree"},
        # Told the answer, the drafter proposes all of it: many tokens are accepted at once.
        "chain, told": {"speculation": "chain", "prediction": plain_text},
    }


def findings_table(findings: list[Finding]) -> Table:
    """Return the table of what was compared and what was found."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for heading in ("prompt", "decoding", "drafts"):
        table.add_column(heading, no_wrap=True)
    for heading in ("compared", "drafted", "accepted", "difference"):
        table.add_column(heading, justify="right")
    for finding in findings:
        speculation = finding.comparison.drafted.speculation
        table.add_row(
            finding.prompt,
            finding.decoding,
            finding.drafts,
            str(finding.num_compared),
            str(speculation.num_draft_tokens),
            str(speculation.num_accepted_tokens),
            _difference(finding),
        )
    return table


def verdict(findings: list[Finding], model: ModelInfo) -> str:
    """Say what it all comes to."""
    num_different = sum(not finding.is_identical for finding in findings)
    num_compared = sum(finding.num_compared for finding in findings)
    num_accepted = sum(f.comparison.drafted.speculation.num_accepted_tokens for f in findings)
    what = (
        f"{num_compared} tokens compared with the bits of their log probabilities, "
        f"{num_accepted} of them accepted from drafts"
    )
    if not num_different:
        return f"[green bold]Identical[/]: {what}"
    said = f"[red bold]{num_different} of {len(findings)} runs differ[/] ({what})"
    if not model.bitwise:
        said += (
            f"\nThe server says that its model is not bitwise: {escape(model.not_bitwise_reason)}"
        )
    return said


def as_json(finding: Finding) -> dict[str, object]:
    """Return the finding as plain data."""
    return {
        "prompt": finding.prompt,
        "decoding": finding.decoding,
        "drafts": finding.drafts,
        "num_compared": finding.num_compared,
        "num_draft_tokens": finding.comparison.drafted.speculation.num_draft_tokens,
        "num_accepted_tokens": finding.comparison.drafted.speculation.num_accepted_tokens,
        "is_identical": finding.is_identical,
        "first_difference": finding.comparison.first_difference,
        "first_other_bits": finding.first_other_bits,
        "is_plain_repeatable": finding.is_plain_repeatable,
        "plain_token_ids": finding.comparison.plain.token_ids,
        "drafted_token_ids": finding.comparison.drafted.token_ids,
    }


def _difference(finding: Finding) -> str:
    if finding.is_identical:
        return "[green]none[/]"
    if finding.comparison.is_identical:
        where = f"[red bold]bits of token {finding.first_other_bits}[/]"
    else:
        where = f"[red bold]token {finding.comparison.first_difference}[/]"
    return where if finding.is_plain_repeatable else f"{where} (two plain runs differ as well)"
