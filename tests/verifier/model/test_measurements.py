"""A model is measured once per machine; a damaged file only means measuring again."""

import json
from pathlib import Path

import pytest

from tests.support.models.engine_runs import target_model
from tests.support.models.reference import FAMILIES, family
from verifier.model import measurements
from verifier.model.measurements import PLAIN, load_or_measure
from verifier.model.model import TargetModel
from verifier.model.probe import choose_form
from verifier.speculation.budget import ROW_COUNTS, StepCurve

pytestmark = pytest.mark.usefixtures("row_kernels")


@pytest.fixture(scope="module")
def model(row_kernels: None) -> TargetModel:
    return target_model(FAMILIES[0].build(), max_sequences=1, max_context=130)


def test_measurements_are_made_once_and_read_back(
    model: TargetModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measurements, "agree", lambda first, second: True)
    path = tmp_path / "cache" / "measurements.json"
    first = load_or_measure(path, model)
    monkeypatch.setattr(measurements, "measure", lambda model: pytest.fail("measured again"))
    again = load_or_measure(path, model)
    assert again.curve.as_dict() == first.curve.as_dict()
    assert first.curve.as_dict()["rows"] == list(ROW_COUNTS)
    assert model.slots.num_free == 1


def test_what_was_measured_in_another_setting_is_not_used(tmp_path: Path) -> None:
    settings = [("positional", 130), ("masked", 130), ("positional", 100)]
    keys = set()
    for attention, max_context in settings:
        hf = FAMILIES[0].build()
        model = TargetModel(hf, "small", max_context=max_context, attention=attention)
        choose_form(model, hf, num_slots=1, draft_rows=65)
        keys.add(measurements._key(model))
    assert len(keys) == len(settings)


def test_a_curve_that_came_out_otherwise_the_second_time_is_used_but_not_kept(
    model: TargetModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = len(ROW_COUNTS) - 1
    times = iter([[1.0] * count + [2.0], [1.5] * count + [1.8]])
    monkeypatch.setattr(measurements, "_step_seconds", lambda run: next(times))
    path = tmp_path / "measurements.json"
    measured = load_or_measure(path, model)
    assert measured.curve.as_dict()["seconds"] == [1.0] * count + [1.8], "the lower of both times"
    assert not path.exists()


@pytest.mark.parametrize(
    ("second", "is_steady"), [([1.2, 2.4], True), ([1.0, 1.7], True), ([1.3, 2.0], False)]
)
def test_curves_agree_when_no_point_is_far_off(second: list[float], is_steady: bool) -> None:
    assert measurements.agree([1.0, 2.0], second) is is_steady
    assert measurements.agree(second, [1.0, 2.0]) is is_steady


@pytest.mark.parametrize("content", ["", "[]", '{"KEY": 3}', '{"KEY": {"rows": [1]}}'])
def test_a_damaged_file_is_measured_anew(
    model: TargetModel, tmp_path: Path, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "measurements.json"
    path.write_text(content.replace("KEY", measurements._key(model)))
    monkeypatch.setattr(measurements, "measure", lambda model: PLAIN)
    assert load_or_measure(path, model) is PLAIN


def test_times_of_other_row_counts_are_measured_anew(
    model: TargetModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "measurements.json"
    entry = StepCurve([1, 2], [1.0, 1.1]).as_dict()
    path.write_text(json.dumps({measurements._key(model): entry}))
    monkeypatch.setattr(measurements, "measure", lambda model: PLAIN)
    assert load_or_measure(path, model) is PLAIN


def test_a_model_without_drafts_needs_no_measuring(tmp_path: Path) -> None:
    model = target_model(family("mamba").build(), max_sequences=1, max_context=100)
    assert load_or_measure(tmp_path / "none.json", model) is PLAIN
    assert not (tmp_path / "none.json").exists()
