"""The probe refuses what is wrong for all words, and only that."""

import pytest

from tests.support.models.engine_runs import target_model
from tests.support.models.reference import FAMILIES
from verifier.model import probe
from verifier.model.model import TargetModel, VerificationMode


@pytest.mark.parametrize("num_bad", range(4))
def test_words_that_round_badly_do_not_cost_a_model_its_form(
    num_bad: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = probe._tree_error, []

    def rounds_badly(model: TargetModel, step: int) -> float:
        asked.append(step)
        error = real(model, step)
        is_bad = model.form is VerificationMode.PACKED and len(asked) <= num_bad
        return 0.5 if is_bad else error

    monkeypatch.setattr(probe, "_tree_error", rounds_badly)
    model = target_model(FAMILIES[0].build(), max_sequences=2, max_context=60)
    expected = VerificationMode.SINGLE if num_bad == 3 else VerificationMode.PACKED
    assert model.form is expected
    assert len(set(asked[:3])) == min(len(asked), 3), "the same words were tried again"
