"""The fastest way that is right is found by trying, and whatever fails leaves a slower one.

The kernels and the graphs of a GPU have stand-ins here.
"""

import random
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.models.engine_runs import ids_of, make_engine, make_request, run_all
from tests.support.models.fake_drafts import FakeDrafts, random_tree
from tests.support.models.reference import Family, family, generate
from tests.support.models.tiled_twin import Recorder, twin_module
from verifier.cache.placement import Kernel
from verifier.kernels import tiled_layout as layout
from verifier.model import captured, ladder
from verifier.model.batch import draft_segment, prompt_segment
from verifier.model.findings import Findings
from verifier.model.model import TargetModel, VerificationMode
from verifier.model.rung import Rung, Tools
from verifier.speculation.tree import DraftTree

pytestmark = pytest.mark.slow

SIZES: dict[str, Any] = {"num_slots": 3, "draft_rows": 9}


@pytest.fixture(autouse=True)
def twin(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The tiled kernels in plain torch, and few sizes of passes."""
    module = twin_module()
    monkeypatch.setitem(sys.modules, "verifier.model.tiled", module)
    monkeypatch.setattr(captured, "ROW_BUCKETS", (16, 32, 96))
    return module


def tiled_model(name: str = "llama") -> tuple[TargetModel, Any]:
    shape = dict(family(name).shape)
    key = "n_layer" if "n_layer" in shape else "num_hidden_layers"
    hf = Family(name, shape | {key: 2}).build()
    model = TargetModel(hf, "small", max_context=128, attention="masked")
    model.use_kernel(Kernel.TILED)
    return model, hf


def uncompiled(forward: Any, **options: Any) -> Any:
    return forward


def failing(*arguments: Any, **options: Any) -> Any:
    raise ValueError("cannot do this")


def choose(model: TargetModel, hf: Any, path: Path, **tools: Any) -> Recorder:
    recorder = Recorder()
    given_tools = Tools(**({"compiler": uncompiled, "capture": lambda: recorder} | tools))
    findings = Findings(path / "models.json")
    ladder.choose_way(model, hf, graphs="auto", findings=findings, tools=given_tools, **SIZES)
    return recorder


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "gpt2", "qwen3_moe", "gemma2"])
def test_replayed_passes_say_what_generate_says(name: str, tmp_path: Path) -> None:
    model, hf = tiled_model(name)
    prompts = [[5, 9, 33, 4], [7] * 9, [3] * 70]
    answers = [generate(hf, prompt, 12, []) for prompt in prompts]
    recorder = choose(model, hf, tmp_path)
    assert (model.rung, model.rung_reason, model.attention) == (Rung.COMPILED, "", "tiled")
    assert model.bitwise
    before = len(recorder.graphs), sum(graph.num_replays for graph in recorder.graphs)
    rng = random.Random(4)
    drafts = FakeDrafts(lambda i, tokens, n: random_tree(rng, 8, range(20)))
    results = run_all(make_engine(model, drafts), [make_request(p, 12) for p in prompts])
    assert [ids_of(runs) for runs, _ in results] == answers
    assert len(recorder.graphs) == before[0], "captured while serving"
    assert sum(graph.num_replays for graph in recorder.graphs) > before[1]


def test_the_best_tokens_that_a_replayed_pass_found_are_those_of_its_logits(tmp_path: Path) -> None:
    model, hf = tiled_model()
    choose(model, hf, tmp_path)
    slot = model.slots.allocate()
    tree = DraftTree((6, 7, 8, 9), (-1, 0, 0, 1), (1.0,) * 4)
    segments = [prompt_segment(slot, 0, (5, 6, 7), is_last=True)]
    logits = model.forward(segments)
    model.commit(slot, [0, 1, 2])
    logits = model.forward([draft_segment(slot, 3, 2, tree)])
    ranking = model.rank(logits, 8)
    assert ranking.best.tolist() == logits.argmax(1).tolist()
    assert ranking.top.tolist() == logits.topk(8).indices.tolist()
    assert model.rank(logits, 12).top.tolist() == logits.topk(12).indices.tolist()


def test_a_failing_compiler_leaves_captured_passes(tmp_path: Path) -> None:
    model, hf = tiled_model()
    choose(model, hf, tmp_path, compiler=failing)
    assert (model.rung, model.attention) == (Rung.CAPTURED, "tiled")
    assert model.rung_reason == "compiled and captured: ValueError: cannot do this"
    assert all("forward" not in vars(module) for module in hf.modules())


def test_a_failing_capture_leaves_passes_that_are_launched_one_by_one(tmp_path: Path) -> None:
    model, hf = tiled_model()
    choose(model, hf, tmp_path, capture=failing)
    assert (model.rung, model.attention) == (Rung.EAGER, "tiled")
    assert model.rung_reason == "captured: ValueError: cannot do this"


def raising(*arguments: Any) -> Tensor:
    raise RuntimeError("no such instruction\nand much more")


def wrong(layer: Any, query: Tensor, key: Tensor, value: Tensor, *rest: Any) -> Tensor:
    return query.new_ones(query.shape[2], query.shape[1], value.shape[-1])


@pytest.mark.parametrize("attend", [raising, wrong], ids=lambda f: f.__name__)
def test_whatever_is_wrong_with_the_kernels_leaves_masked_attention(
    attend: Any, twin: Any, tmp_path: Path
) -> None:
    model, hf = tiled_model()
    twin.attend_tiled = attend
    answer = generate(hf, [5, 9, 33, 4], 8, [])
    choose(model, hf, tmp_path)
    assert (model.rung, model.attention) == (Rung.EAGER, "masked")
    assert model.attention_reason.startswith("eager: ")
    assert model.form is VerificationMode.PACKED
    results = run_all(make_engine(model, None), [make_request([5, 9, 33, 4], 8)])
    assert [ids_of(runs) for runs, _ in results] == [answer]


def test_bits_that_depend_on_the_rest_of_a_pass_leave_masked_attention(
    twin: Any, tmp_path: Path
) -> None:
    model, hf = tiled_model()
    exact = twin.attend_tiled

    def noisy(layer: Any, query: Tensor, *rest: Any) -> Tensor:
        found: Tensor = exact(layer, query, *rest)
        return found * (1 + 1e-7 * layer.owner.placement.block.numbers[layout.NUM_ROWS])

    twin.attend_tiled = noisy
    choose(model, hf, tmp_path)
    assert model.attention == "masked"
    assert "a row's bits depend on" in model.attention_reason


def test_a_rung_that_ended_the_process_twice_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Findings.put

    def put(self: Findings, key: str, **found: Any) -> None:
        """A process that ends writes nothing after it began."""
        if found.get("tries") != self.get(key).get("tries", 0) - 1:
            known(self, key, **found)

    def killed(*arguments: Any) -> str:
        raise KeyboardInterrupt

    for _ in range(ladder.MAX_TRIES):
        with monkeypatch.context() as context:
            context.setattr(ladder, "_set_up", killed)
            context.setattr(Findings, "put", put)
            with pytest.raises(KeyboardInterrupt):
                choose(*tiled_model(), tmp_path)
    model, hf = tiled_model()
    choose(model, hf, tmp_path)
    assert model.rung is Rung.CAPTURED
    assert model.rung_reason == "compiled and captured: earlier starts did not survive it"


def test_a_lost_device_is_told_and_the_next_start_leaves_the_rung_out(
    twin: Any, tmp_path: Path
) -> None:
    def lost(*arguments: Any) -> Tensor:
        raise torch.AcceleratorError("an illegal memory access")

    model, hf = tiled_model()
    kept, twin.attend_tiled = twin.attend_tiled, lost
    with pytest.raises(torch.AcceleratorError):
        choose(model, hf, tmp_path)
    twin.attend_tiled = kept
    model, hf = tiled_model()
    choose(model, hf, tmp_path)
    assert model.rung is Rung.CAPTURED
