"""The whole forward of a model traces to one graph, and its layers to one for all of them."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.models.engine_runs import target_model
from tests.support.models.reference import FAMILIES, STATEFUL, Family, family
from verifier.cache.kv_cache import KVCache
from verifier.model import invariance
from verifier.model.batch import draft_segment, prompt_segment
from verifier.model.compilation import CompiledLayers
from verifier.model.model import TargetModel, VerificationMode
from verifier.sampling.ranking import ranked
from verifier.speculation.tree import DraftTree

# torch's compiler uses what torch itself calls deprecated.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
]

# What has no packed passes runs as transformers has it.
NOT_ONE = {
    "falcon": "its own attention, which transformers does not let others replace",
    "bloom": "its position bias takes no tree, so it is served without drafting",
    **{each.model_type: "it keeps states, which change from pass to pass" for each in STATEFUL},
}
ONE = [each.model_type for each in FAMILIES if each.model_type not in NOT_ONE]
PROMPT = (5, 6, 7, 8, 9, 3, 4)


def small(name: str, num_layers: int) -> Family:
    shape = dict(family(name).shape)
    key = "n_layer" if "n_layer" in shape else "num_hidden_layers"
    return Family(name, shape | {key: num_layers})


@pytest.fixture(autouse=True)
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bits are checked elsewhere, which takes longer than all there is here."""
    monkeypatch.setattr(invariance, "why_not_bitwise", lambda model: "")
    torch._dynamo.reset()


def served(name: str, num_layers: int) -> TargetModel:
    return target_model(small(name, num_layers).build(), max_sequences=3, max_context=100)


def read_prompt(model: TargetModel) -> int:
    """A slot that holds a prompt."""
    slot = model.slots.allocate()
    model.forward([prompt_segment(slot, 0, PROMPT, is_last=False)])
    model.commit(slot, list(range(len(PROMPT))))
    return slot


def drafted(model: TargetModel, slot: int, num_rows: int = 5) -> Tensor:
    """The logits of a pass that verifies a draft."""
    count = num_rows - 1
    tree = DraftTree((6,) * count, tuple(max(i // 2 - 1, -1) for i in range(count)), (1.0,) * count)
    return model.forward([draft_segment(slot, len(PROMPT), 2, tree)])


class Counter:
    """A backend of torch.compile that counts the graphs and runs them as they are."""

    def __init__(self) -> None:
        self.graphs: list[Any] = []

    def __call__(self, graph: Any, inputs: object) -> Any:
        self.graphs.append(graph)
        return graph.forward


class WithRanking(torch.nn.Module):
    """A model whose forward goes on to the best tokens of each row."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: Any) -> tuple[Tensor, Tensor]:
        logits = self.model(**inputs).logits[0].float()
        return logits, ranked(logits, 8)


@pytest.mark.parametrize("name", ONE)
def test_a_forward_with_output_layer_and_ranking_is_one_graph(name: str) -> None:
    model = served(name, 2)
    assert model.form is VerificationMode.PACKED
    slot = read_prompt(model)
    expected = drafted(model, slot)
    counter = Counter()
    whole = torch.compile(WithRanking(model._model), fullgraph=True, dynamic=False, backend=counter)
    seen: list[Tensor] = []

    def run(**inputs: Any) -> Any:
        rows = inputs.pop("logits_to_keep")
        logits, best = whole(**inputs)
        seen.append(best)
        return SimpleNamespace(logits=logits[None, rows])

    model._model = run  # type: ignore[assignment]
    found = drafted(model, slot)
    assert len(counter.graphs) == 1
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert (seen[0][:, 0].long() == expected.argmax(1)).all()


@pytest.mark.parametrize("name", ["falcon", "bloom"])
def test_the_exceptions_have_no_packed_passes(name: str) -> None:
    assert served(name, 2).form is not VerificationMode.PACKED


def compiled(model: TargetModel) -> tuple[Counter, CompiledLayers]:
    counter = Counter()

    def compiler(forward: Any, **options: Any) -> Any:
        return torch.compile(forward, backend=counter, **options)

    base: Any = model._model.base_model
    layers = CompiledLayers(base, compiler)
    assert isinstance(model.slots, KVCache)
    layers.bind(model.slots.cache.layers)  # type: ignore[arg-type]
    return counter, layers


@pytest.mark.parametrize("name", ["llama", "qwen3", "mixtral", "gpt2"])
def test_layers_are_compiled_once_for_all_of_them_and_all_numbers_of_rows(name: str) -> None:
    model = served(name, 6)
    slot, sizes = read_prompt(model), (5, 4, 9, 16)
    expected = [drafted(model, slot, rows) for rows in sizes]
    counter, layers = compiled(model)
    for rows, logits in zip(sizes, expected, strict=True):
        torch.testing.assert_close(drafted(model, slot, rows), logits, rtol=1e-5, atol=1e-5)
    assert len(counter.graphs) == 1
    layers.undo()
    assert torch.equal(drafted(model, slot), expected[0])
    assert len(counter.graphs) == 1


def test_layers_of_two_kinds_are_compiled_twice() -> None:
    model = served("gemma3_text", 12)
    slot = read_prompt(model)
    expected = drafted(model, slot)
    counter, _ = compiled(model)
    torch.testing.assert_close(drafted(model, slot), expected, rtol=1e-5, atol=1e-5)
    assert len(counter.graphs) == 2
