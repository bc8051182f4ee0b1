"""The demo model is converted once, atomically, and the copy is the model in the GGUF file."""

import io
import sys
from pathlib import Path
from threading import Thread

import gguf
import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from lookahead.stack import convert_model, model_cache
from lookahead.stack.model_cache import ModelUnavailable, cache_directory, resolve_model
from tests.support.models.tiny_gguf import write_gguf

WRITES_A_MODEL = """
import pathlib, sys
for stage in ("one", "two"):
    print(stage, flush=True)
target = pathlib.Path(sys.argv[1])
with open(target.parent / "conversions", "a") as log:
    log.write("x")
(target / "config.json").write_text("{}")
"""
FAILS_HALFWAY = """
import pathlib, sys
print("one", flush=True)
(pathlib.Path(sys.argv[1]) / "config.json").write_text("{}")
sys.exit("disk full")
"""


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"XDG_CACHE_HOME": str(tmp_path / "cache")}


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=120)


def use_converter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str) -> None:
    script = tmp_path / "converter.py"
    script.write_text(source)
    monkeypatch.setattr(model_cache, "CONVERTER", [sys.executable, str(script)])


def test_other_models_are_passed_on_as_they_are(console: Console) -> None:
    assert resolve_model("some-organisation/some-model", console) == "some-organisation/some-model"


def test_a_path_that_holds_no_model_is_refused_at_once(console: Console, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"has no config\.json"):
        resolve_model(str(tmp_path), console)
    for path in (str(tmp_path / "none"), "./none", "~/none"):
        with pytest.raises(ModelUnavailable, match=f"--model: {path} does not exist"):
            resolve_model(path, console)


def test_the_cache_follows_the_environment() -> None:
    assert cache_directory({"XDG_CACHE_HOME": "/c"}) == Path("/c/lookahead")
    assert cache_directory({"HOME": "/h"}) == Path("/h/.cache/lookahead")
    assert cache_directory({"HOME": "/h", "XDG_CACHE_HOME": ""}) == Path("/h/.cache/lookahead")


def test_the_model_is_made_once_and_found_afterwards(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, console: Console, environ: dict[str, str]
) -> None:
    use_converter(monkeypatch, tmp_path, WRITES_A_MODEL)
    path = Path(resolve_model("demo", console, environ))
    assert path == tmp_path / "cache/lookahead/models/gemma-3-270m"
    assert [file.name for file in path.iterdir()] == ["config.json"]
    assert resolve_model("demo", console, environ) == str(path)
    assert (path.parent / "conversions").read_text() == "x"


def test_two_at_once_convert_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, console: Console, environ: dict[str, str]
) -> None:
    use_converter(monkeypatch, tmp_path, WRITES_A_MODEL)
    quiet = [Console(file=io.StringIO()) for _ in range(3)]
    threads = [Thread(target=resolve_model, args=("demo", each, environ)) for each in quiet]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    models = tmp_path / "cache/lookahead/models"
    assert (models / "conversions").read_text() == "x"


def test_a_conversion_that_fails_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, console: Console, environ: dict[str, str]
) -> None:
    use_converter(monkeypatch, tmp_path, FAILS_HALFWAY)
    with pytest.raises(ModelUnavailable, match="disk full"):
        resolve_model("demo", console, environ)
    models = tmp_path / "cache/lookahead/models"
    assert [file.name for file in models.iterdir()] == [".gemma-3-270m.lock"]


def test_what_a_killed_conversion_left_is_cleared_away(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, console: Console, environ: dict[str, str]
) -> None:
    use_converter(monkeypatch, tmp_path, WRITES_A_MODEL)
    partial = tmp_path / "cache/lookahead/models/gemma-3-270m.partial"
    partial.mkdir(parents=True)
    (partial / "source.gguf").write_text("half of it")
    path = Path(resolve_model("demo", console, environ))
    assert [file.name for file in path.iterdir()] == ["config.json"]
    assert not partial.exists()


def test_without_the_package_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, console: Console, environ: dict[str, str]
) -> None:
    monkeypatch.setattr(model_cache, "DEMO_PACKAGE", "no_such_package")
    with pytest.raises(ModelUnavailable, match=r"lookahead-serving\[demo\]"):
        resolve_model("demo", console, environ)


def test_the_converted_model_computes_what_the_gguf_file_holds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    original = write_gguf(tmp_path / "tiny.gguf")
    target = tmp_path / "converted"
    target.mkdir()
    monkeypatch.setattr(
        convert_model, "assemble", lambda path: path.write_bytes(original.read_bytes()) and path
    )
    monkeypatch.setattr(gguf, "GGUFReader", gguf.GGUFReader)  # so that it comes back afterwards
    source = {"pretrained_model_name_or_path": str(tmp_path), "gguf_file": original.name}
    tokenizers = [AutoTokenizer.from_pretrained(**source)]
    models = [AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)]
    capfd.readouterr()
    convert_model.convert(target)
    assert not list(target.glob("*.gguf"))
    assert tuple(capfd.readouterr().out.splitlines()) == convert_model.STAGES
    tokenizers.append(AutoTokenizer.from_pretrained(target))
    ids = [tokenizer("ab a b", return_tensors="pt").input_ids for tokenizer in tokenizers]
    assert torch.equal(*ids)
    models.append(AutoModelForCausalLM.from_pretrained(target))
    with torch.inference_mode():
        logits = [model(ids[0]).logits for model in models]
    assert logits[1].dtype == torch.float32
    assert torch.equal(*logits)
