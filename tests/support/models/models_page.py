"""Writes the table of families in docs/models.md: `python -m tests.support.models.models_page`."""

from bench.marked_place import fill, read
from tests.support import ROOT
from tests.support.models.engine_runs import target_model
from tests.support.models.reference import FAMILIES, Family
from verifier.model.model import TargetModel, VerificationMode

PATH = ROOT / "docs" / "models.md"
PLACE = "families"
HEAD = ["| family | served with | bitwise |", "|---|---|---|"]
# Which of its effects the check at load meets first depends on the machine.
WHY_NOT_BITWISE = {
    VerificationMode.PACKED: "a layer rounds by the shape of its pass",
    VerificationMode.SINGLE: "its own attention rounds by the shape of its pass",
    VerificationMode.CHAIN: "its states are scanned in chunks, which round by where they begin",
}
OUT_OF_DATE = "docs/models.md is out of date: run python -m tests.support.models.models_page"


def row(family: Family, model: TargetModel) -> str:
    """The family's line: how a model of it is served, and why not better."""
    served = {
        VerificationMode.PACKED: "trees; many sequences in one pass",
        VerificationMode.SINGLE: "trees; one sequence per pass",
        VerificationMode.CHAIN: "chains; sequences of as many rows in one pass"
        if model.joins_chains
        else "chains; one sequence per pass",
        VerificationMode.PLAIN: f"without drafting: {model.reason}",
    }[model.form]
    bitwise = "yes" if model.bitwise else f"no: {WHY_NOT_BITWISE[model.form]}"
    return f"| `{family.model_type}` | {served} | {bitwise} |"


def listed() -> list[str]:
    """The lines of families that the page holds now."""
    return read(PATH, PLACE).splitlines()[len(HEAD) :]


def write() -> None:
    """Build each family small, see how it is served, and write that."""
    rows = [
        row(family, target_model(family.build(), max_sequences=3, max_context=64))
        for family in FAMILIES
    ]
    fill(PATH, PLACE, "\n".join([*HEAD, *rows]))


if __name__ == "__main__":
    write()
