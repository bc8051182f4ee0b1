"""Demo models are fetched and converted once, atomically; they compute what their files hold."""

import hashlib
import io
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from threading import Thread

import gguf
import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from lookahead.stack import demo_models, dense_model, model_cache
from lookahead.stack.demo_models import DEMO_MODELS, GEMMA, SMOLLM2, DemoModel, ModelUnavailable
from lookahead.stack.model_cache import cache_directory, resolve_model
from tests.support.models.tiny_gguf import write_gguf

WRITES_A_MODEL = """
import pathlib, sys
for stage in ("one", "two"):
    print(stage, flush=True)
target = pathlib.Path(sys.argv[2])
assert pathlib.Path(sys.argv[1]).read_bytes() == b"onetwo"
with open(target.parent / "conversions", "a") as log:
    log.write("x")
(target / "config.json").write_text("{}")
"""
FAILS_HALFWAY = """
import pathlib, sys
print("one", flush=True)
(pathlib.Path(sys.argv[2]) / "config.json").write_text("{}")
sys.exit("disk full")
"""


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"XDG_CACHE_HOME": str(tmp_path / "cache")}


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=120)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DemoModel:
    """What --model demo means here: a model whose file is cut in two, in two packages."""
    monkeypatch.syspath_prepend(str(tmp_path / "installed"))
    for i, part in enumerate((b"one", b"two")):
        (tmp_path / f"installed/package{i}").mkdir(parents=True)
        (tmp_path / f"installed/package{i}/__init__.py").touch()
        (tmp_path / f"installed/package{i}/model.part{i}").write_bytes(part)
    model = replace(
        SMOLLM2,
        packages=("package0==1", "package1==1"),
        files=("package0/model.part0", "package1/model.part1"),
        sha256=hashlib.sha256(b"onetwo").hexdigest(),
    )
    monkeypatch.setitem(DEMO_MODELS, "demo", model)
    return model


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


@pytest.mark.usefixtures("model")
def test_the_model_is_made_once_and_found_afterwards(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, console: Console, environ: dict[str, str]
) -> None:
    use_converter(monkeypatch, tmp_path, WRITES_A_MODEL)
    path = Path(resolve_model("demo", console, environ))
    assert path == tmp_path / "cache/lookahead/models/smollm2-135m-instruct"
    assert [file.name for file in path.iterdir()] == ["config.json"]
    assert resolve_model("demo", console, environ) == str(path)
    assert (path.parent / "conversions").read_text() == "x"


@pytest.mark.usefixtures("model")
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


@pytest.mark.usefixtures("model")
def test_a_conversion_that_fails_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, console: Console, environ: dict[str, str]
) -> None:
    use_converter(monkeypatch, tmp_path, FAILS_HALFWAY)
    with pytest.raises(ModelUnavailable, match="disk full"):
        resolve_model("demo", console, environ)
    models = tmp_path / "cache/lookahead/models"
    assert [file.name for file in models.iterdir()] == [".smollm2-135m-instruct.lock"]


@pytest.mark.usefixtures("model")
def test_what_a_killed_conversion_left_is_cleared_away(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, console: Console, environ: dict[str, str]
) -> None:
    use_converter(monkeypatch, tmp_path, WRITES_A_MODEL)
    partial = tmp_path / "cache/lookahead/models/smollm2-135m-instruct.partial"
    partial.mkdir(parents=True)
    (partial / "source.gguf").write_text("half of it")
    path = Path(resolve_model("demo", console, environ))
    assert [file.name for file in path.iterdir()] == ["config.json"]
    assert not partial.exists()


def wheels(folder: Path, model: DemoModel, parts: tuple[bytes, ...]) -> None:
    """Write what pip would download."""
    for file, part in zip(model.files, parts, strict=True):
        with zipfile.ZipFile(folder / f"{Path(file).parts[0]}.whl", "w") as archive:
            archive.writestr(file, part)


@pytest.mark.parametrize("parts", [(b"one", b"two"), (b"one", b"bad")])
def test_what_is_not_installed_is_downloaded_and_checked(
    parts: tuple[bytes, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = replace(
        GEMMA, files=("none0/part0", "none1/part1"), sha256=hashlib.sha256(b"onetwo").hexdigest()
    )
    asked = []

    def download(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        wheels(Path(command[command.index("-d") + 1]), model, parts)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(demo_models.subprocess, "run", download)
    if parts[1] == b"bad":
        with pytest.raises(ModelUnavailable, match="not the file that is expected"):
            model.fetch(tmp_path / "model.gguf")
    else:
        model.fetch(tmp_path / "model.gguf")
        assert (tmp_path / "model.gguf").read_bytes() == b"onetwo"
    assert "--no-deps" in asked[0] and asked[0][-len(model.packages) :] == list(model.packages)


def test_what_pip_cannot_have_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    model = replace(SMOLLM2, packages=("no-such-package-here==1",), files=("none/model.gguf",))
    with pytest.raises(ModelUnavailable, match="no-such-package-here==1"):
        model.fetch(tmp_path / "model.gguf")


def test_the_converted_model_computes_what_the_gguf_file_holds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    original = write_gguf(tmp_path / "tiny.gguf")
    target = tmp_path / "converted"
    target.mkdir()
    monkeypatch.setattr(gguf, "GGUFReader", gguf.GGUFReader)  # so that it comes back afterwards
    source = {"pretrained_model_name_or_path": str(tmp_path), "gguf_file": original.name}
    tokenizers = [AutoTokenizer.from_pretrained(**source)]
    models = [AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)]
    capfd.readouterr()
    dense_model.save_dense(original, target, "auto")
    assert tuple(capfd.readouterr().out.splitlines()) == dense_model.STAGES
    assert len(dense_model.STAGES) + 1 == model_cache.NUM_STAGES
    tokenizers.append(AutoTokenizer.from_pretrained(target))
    ids = [tokenizer("ab a b", return_tensors="pt").input_ids for tokenizer in tokenizers]
    assert torch.equal(*ids)
    models.append(AutoModelForCausalLM.from_pretrained(target))
    with torch.inference_mode():
        logits = [model(ids[0]).logits for model in models]
    assert logits[1].dtype == torch.float32
    assert torch.equal(*logits)


def test_a_file_is_converted_once_for_each_content(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, console: Console, environ: dict[str, str]
) -> None:
    use_converter(monkeypatch, tmp_path, WRITES_A_MODEL)
    file = tmp_path / "mine.gguf"
    file.write_bytes(b"onetwo")
    path = Path(resolve_model(str(file), console, environ))
    assert path.parent == tmp_path / "cache/lookahead/models"
    assert path.name.startswith("mine-")
    assert resolve_model(str(file), console, environ) == str(path)
    assert (path.parent / "conversions").read_text() == "x"
    file.write_bytes(b"other")
    with pytest.raises(ModelUnavailable, match="AssertionError"):  # the converter is asked again
        resolve_model(str(file), console, environ)
    with pytest.raises(ModelUnavailable, match="does not exist"):
        resolve_model("none.gguf", console, environ)


@pytest.mark.parametrize(("eot", "eom", "expected"), [(None, None, [2]), (5, 6, [2, 5, 6])])
def test_whatever_a_file_says_ends_an_answer_ends_it(
    eot: int | None, eom: int | None, expected: list[int], tmp_path: Path
) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", eot=eot, eom=eom)
    found = dense_model.end_ids(
        dense_model.PlainReader(file), AutoTokenizer.from_pretrained(tmp_path, gguf_file=file.name)
    )
    assert found == expected
