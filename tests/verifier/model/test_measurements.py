"""A model is measured once per machine; a damaged file only means measuring again."""

from pathlib import Path

import pytest

from tests.support.models.engine_runs import target_model
from tests.support.models.reference import FAMILIES, family
from verifier.model import findings as findings_module
from verifier.model import invariance, measurements, probe
from verifier.model.findings import Findings, key_of
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
    findings = Findings(tmp_path / "cache" / "models.json")
    first = load_or_measure(findings, model)
    monkeypatch.setattr(measurements, "measure", lambda model: pytest.fail("measured again"))
    again = load_or_measure(findings, model)
    assert again.curve.as_dict() == first.curve.as_dict()
    assert first.curve.as_dict()["rows"] == list(ROW_COUNTS)
    assert model.slots.num_free == 1


def test_what_was_found_out_in_another_setting_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = [("positional", 130), ("masked", 130), ("positional", 100)]
    keys = set()
    for attention, max_context in settings:
        hf = FAMILIES[0].build()
        model = TargetModel(hf, "small", max_context=max_context, attention=attention)
        choose_form(model, hf, num_slots=1, draft_rows=65)
        keys.add(key_of(model))
    monkeypatch.setattr(findings_module, "_code", lambda: "another version of ours")
    keys.add(key_of(model))
    assert len(keys) == len(settings) + 1


def test_of_two_times_the_lower_one_counts(
    model: TargetModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = len(ROW_COUNTS) - 1
    times = iter([[1.0] * count + [2.0], [1.5] * count + [1.8]])
    monkeypatch.setattr(measurements, "_step_seconds", lambda run, counts: next(times))
    measured = load_or_measure(Findings(tmp_path / "models.json"), model)
    assert measured.curve.as_dict()["seconds"] == [1.0] * count + [1.8]


@pytest.mark.parametrize(
    ("second", "is_steady"), [([1.2, 2.4], True), ([1.0, 1.7], True), ([1.3, 2.0], False)]
)
def test_a_busy_machine_is_said_in_the_log(
    second: list[float], is_steady: bool, caplog: pytest.LogCaptureFixture
) -> None:
    measurements.tell_if_unsteady([1.0, 2.0], second)
    measurements.tell_if_unsteady(second, [1.0, 2.0])
    assert caplog.text.count("steps_unsteady") == (0 if is_steady else 2)


@pytest.mark.parametrize("content", ["", "[]", '{"KEY": 3}', '{"KEY": {"rows": [1]}}'])
def test_a_damaged_file_is_measured_anew(
    model: TargetModel, tmp_path: Path, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "models.json"
    path.write_text(content.replace("KEY", key_of(model)))
    monkeypatch.setattr(measurements, "measure", lambda model: PLAIN)
    assert load_or_measure(Findings(path), model) is PLAIN


def test_times_of_other_row_counts_are_measured_anew(
    model: TargetModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    findings = Findings(tmp_path / "models.json")
    findings.put(key_of(model), **StepCurve([1, 2], [1.0, 1.1]).as_dict())
    monkeypatch.setattr(measurements, "measure", lambda model: PLAIN)
    assert load_or_measure(findings, model) is PLAIN


def test_a_model_without_drafts_needs_no_measuring(tmp_path: Path) -> None:
    model = target_model(family("mamba").build(), max_sequences=1, max_context=100)
    assert load_or_measure(Findings(tmp_path / "none.json"), model) is PLAIN
    assert not (tmp_path / "none.json").exists()


def test_a_model_is_probed_and_its_bits_are_checked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    findings = Findings(tmp_path / "models.json")

    def load() -> TargetModel:
        hf = FAMILIES[0].build()
        model = TargetModel(hf, "small", max_context=130)
        choose_form(model, hf, num_slots=1, draft_rows=65, findings=findings)
        return model

    monkeypatch.setattr(invariance, "why_not_bitwise", lambda model: "its rows round otherwise")
    assert load().not_bitwise_reason == "its rows round otherwise"
    monkeypatch.setattr(invariance, "why_not_bitwise", lambda model: pytest.fail("checked again"))
    monkeypatch.setattr(probe, "_tree_error", lambda *arguments: pytest.fail("probed again"))
    again = load()
    assert (again.bitwise, again.not_bitwise_reason) == (False, "its rows round otherwise")
    load_or_measure(findings, again)
    assert not load().bitwise, "forgotten with the measurement"
