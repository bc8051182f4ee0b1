"""The whole forward of a model traces to one graph, and its layers to one for all of them."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.models.engine_runs import target_model
from tests.support.models.reference import FAMILIES, STATEFUL, Family, family
from verifier.cache.kv_cache import KVCache
from verifier.model.batch import Segment, draft_segment, prompt_segment
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

# What is served otherwise than with trees of many sequences in one pass runs as transformers has it.
NOT_ONE = {
    "falcon": "its own attention, which transformers does not let others replace",
    "bloom": "its position bias takes no tree, so it is served without drafting",
    **{each.model_type: "it keeps states, which change from pass to pass" for each in STATEFUL},
}
ONE = [each.model_type for each in FAMILIES if each.model_type not in NOT_ONE]
TREE = DraftTree((6, 7, 8, 9), (-1, 0, 0, 1), (1.0,) * 4)
PROMPT = (5, 6, 7, 8, 9, 3, 4)


def small(name: str, num_layers: int) -> Family:
    shape = dict(family(name).shape)
    key = "n_layer" if "n_layer" in shape else "num_hidden_layers"
    return Family(name, shape | {key: num_layers})


def served(name: str, num_layers: int) -> TargetModel:
    torch._dynamo.reset()
    return target_model(small(name, num_layers).build(), max_sequences=3, max_context=100)


def drafted(model: TargetModel, num_rows: int = 5) -> Tensor:
    """The logits of a pass that reads a prompt and of one that verifies a draft after it."""
    slot = model.slots.allocate()
    first = model.forward([prompt_segment(slot, 0, PROMPT, is_last=True)])
    model.commit(slot, list(range(len(PROMPT))))
    tree = (
        TREE if num_rows == 5 else DraftTree((1,) * num_rows, (-1,) * num_rows, (1.0,) * num_rows)
    )
    segments: list[Segment] = [draft_segment(slot, len(PROMPT), 2, tree)]
    second = model.forward(segments)
    model.slots.free(slot)
    return torch.cat([first, second])


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
    expected = drafted(model)
    counter = Counter()
    hf: Any = model._model
    whole = torch.compile(WithRanking(hf), fullgraph=True, dynamic=False, backend=counter)
    seen: list[Tensor] = []

    def run(**inputs: Any) -> Any:
        rows = inputs.pop("logits_to_keep")
        logits, best = whole(**inputs)
        seen.append(best)
        return type("Output", (), {"logits": logits[None, rows]})

    model._model = type("Whole", (), {"__call__": staticmethod(run)})()
    found = drafted(model)
    assert len(counter.graphs) == len(seen) == 2  # passes of 7 and of 5 rows
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert (seen[1][:, 0].long() == expected[1:].argmax(1)).all()


def test_the_exceptions_are_those_that_are_not_packed() -> None:
    for name in ("falcon", "bloom"):
        assert served(name, 2).form is not VerificationMode.PACKED


@pytest.mark.parametrize("name", ["llama", "qwen3", "mixtral", "gpt2"])
def test_layers_are_compiled_once_for_all_of_them_and_all_numbers_of_rows(name: str) -> None:
    model = served(name, 6)
    sizes = (5, 4, 9, 16)
    expected = [drafted(model, rows) for rows in sizes]
    counter = Counter()
    base: Any = model._model.base_model
    assert isinstance(model.slots, KVCache)
    layers = CompiledLayers(
        base, lambda forward, **options: torch.compile(forward, backend=counter, **options)
    )
    layers.bind(model.slots.cache.layers)  # type: ignore[arg-type]
    for rows, logits in zip(sizes, expected, strict=True):
        torch.testing.assert_close(drafted(model, rows), logits, rtol=1e-5, atol=1e-5)
    assert len(counter.graphs) == 1
    layers.undo()
    assert torch.equal(drafted(model), expected[0])
    assert len(counter.graphs) == 1


def test_layers_of_two_kinds_are_compiled_twice() -> None:
    model = served("gemma3_text", 12)
    counter = Counter()
    base: Any = model._model.base_model
    assert isinstance(model.slots, KVCache)
    layers = CompiledLayers(
        base, lambda forward, **options: torch.compile(forward, backend=counter, **options)
    )
    expected = drafted(model)
    layers.bind(model.slots.cache.layers)  # type: ignore[arg-type]
    torch.testing.assert_close(drafted(model), expected, rtol=1e-5, atol=1e-5)
    assert len(counter.graphs) == 2
