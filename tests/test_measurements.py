"""A model is measured once per machine; a damaged file only means measuring again."""

from pathlib import Path

import pytest

from tests.engine_runs import target_model
from tests.reference import FAMILIES
from verifier import measurements
from verifier.budget import ROW_COUNTS
from verifier.measurements import PLAIN, load_or_measure
from verifier.model import TargetModel


@pytest.fixture(scope="module")
def model() -> TargetModel:
    return target_model(FAMILIES[0].build(), max_sequences=1, max_context=130)


def test_measurements_are_made_once_and_read_back(
    model: TargetModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cache" / "measurements.json"
    first = load_or_measure(path, model)
    monkeypatch.setattr(measurements, "measure", lambda model: pytest.fail("measured again"))
    again = load_or_measure(path, model)
    assert again.curve.as_dict() == first.curve.as_dict()
    assert (again.margin, again.rows_agree) == (first.margin, first.rows_agree)
    assert first.curve.as_dict()["rows"] == list(ROW_COUNTS)
    assert 0 < first.margin < 1e-3
    assert model.slots.num_free == 1


@pytest.mark.parametrize("content", ["", "[]", '{"KEY": 3}', '{"KEY": {"rows": [1]}}'])
def test_a_damaged_file_is_measured_anew(
    model: TargetModel, tmp_path: Path, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "measurements.json"
    path.write_text(content.replace("KEY", measurements._key(model)))
    monkeypatch.setattr(measurements, "measure", lambda model: PLAIN)
    assert load_or_measure(path, model) is PLAIN


def test_a_model_without_drafts_needs_no_measuring(tmp_path: Path) -> None:
    mamba = next(f for f in FAMILIES if f.model_type == "mamba")
    model = target_model(mamba.build(), max_sequences=1, max_context=100)
    assert load_or_measure(tmp_path / "none.json", model) is PLAIN
    assert not (tmp_path / "none.json").exists()
