"""Compiled passes come in a few row counts, and say what uncompiled ones say."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedModel

from tests.support.models.engine_runs import (
    ids_of,
    make_engine,
    make_request,
    run_all,
    target_model,
)
from tests.support.models.fake_drafts import FakeDrafts, path_tree, random_tree
from tests.support.models.reference import VOCABULARY_SIZE, Family, family, generate
from verifier.model import compilation
from verifier.model.batch import draft_segment, make_batch, pad_batch, prompt_segment
from verifier.model.compilation import ROW_BUCKETS, padded_rows
from verifier.model.model import TargetModel, VerificationMode
from verifier.model.probe import choose_form
from verifier.request import Mode
from verifier.speculation.tree import DraftTree

pytestmark = pytest.mark.slow

PROMPTS = [[5, 9, 33, 4], [7] * 9, [3] * 70, [11, 60, 2, 8]]
NUM_TOKENS = 30


def answers(hf: PreTrainedModel) -> list[list[int]]:
    return [generate(hf, prompt, NUM_TOKENS, []) for prompt in PROMPTS]


def drafted(model: TargetModel, expected: list[list[int]]) -> list[list[int]]:
    """Outputs of all prompts together, with good drafts, decoys and noise."""
    rng = random.Random(1)

    def propose(sequence_id: int, tokens: list[int], max_nodes: int) -> DraftTree:
        index = (sequence_id - 1) % len(PROMPTS)
        rest = expected[index][len(tokens) - len(PROMPTS[index]) :][:6]
        if rng.random() < 0.3:
            return random_tree(rng, 12, range(VOCABULARY_SIZE))
        return path_tree(rest, decoys=[rng.randrange(VOCABULARY_SIZE) for _ in rest])

    requests = [make_request(p, NUM_TOKENS, mode=Mode.TREE) for p in PROMPTS]
    return [ids_of(runs) for runs, _ in run_all(make_engine(model, FakeDrafts(propose)), requests)]


def model_to_compile(hf: PreTrainedModel) -> TargetModel:
    """The compiler knows no packed weights."""
    model = TargetModel(hf, "small", max_context=128, attention="masked")
    choose_form(model, hf, num_slots=3, draft_rows=65)
    return model


class Recorder:
    """Stands in for torch.compile: notes the shapes of every pass that would be compiled."""

    def __init__(self) -> None:
        self.shapes: set[tuple[Any, ...]] = set()

    def __call__(self, forward: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        def run(*ids: Any, **inputs: Any) -> Any:
            masks = inputs["attention_mask"]
            handed = masks.values() if isinstance(masks, dict) else [masks]
            tensors = [*(ids or [inputs["input_ids"]]), inputs["position_ids"], *handed]
            self.shapes.add(tuple(tuple(tensor.shape) for tensor in tensors))
            return forward(*ids, **inputs)

        return run


@given(st.integers(1, 1000))
def test_passes_are_padded_to_the_next_bucket_and_long_ones_are_not(rows: int) -> None:
    padded = padded_rows(rows, torch.device("cpu"))
    if rows > ROW_BUCKETS[-1]:
        assert padded is None
    else:
        assert padded is not None
        assert padded == min(b for b in ROW_BUCKETS if b >= rows)
        assert padded < 2 * rows


def test_padding_adds_rows_behind_that_belong_to_nobody() -> None:
    tree = DraftTree((4, 5), (-1, -1), (1.0, 0.5))
    batch = make_batch([draft_segment(2, 6, 3, tree), prompt_segment(1, 0, (8, 9), is_last=True)])
    padded = pad_batch(batch, 8)
    for name in ("token_ids", "positions"):
        assert (getattr(padded, name)[:5] == getattr(batch, name)).all()
        assert len(getattr(padded, name)) == 8
    assert (padded.logit_rows == batch.logit_rows).all()
    assert pad_batch(batch, 5) is batch


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "gemma2", "mistral", "gpt2", "qwen3_moe"])
def test_only_buckets_are_compiled_and_words_stay(name: str) -> None:
    hf = family(name).build()
    expected = answers(hf)
    model = model_to_compile(hf)
    recorder = Recorder()
    model.compile(recorder)
    assert drafted(model, expected) == expected
    assert {shapes[0][1] for shapes in recorder.shapes} == set(ROW_BUCKETS)
    assert len(recorder.shapes) == len(ROW_BUCKETS), "a shape besides the number of rows changes"


def num_graphs() -> int:
    """Pieces that torch has compiled so far."""
    graphs: int = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    return graphs


# The first traces and pads as the second does, and differs by generating no code. The second has
# one bucket, since the C++ compiler takes seconds for each part.
# torch's compiler uses what torch itself calls deprecated.
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("name", "backend", "buckets"),
    [("gemma3_text", "aot_eager", (1, 32)), ("llama", "inductor", (32,))],
)
def test_words_stay_with_torch_compile_and_nothing_is_compiled_while_serving(
    name: str, backend: str, buckets: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    hf = family(name).build()
    expected = answers(hf)
    monkeypatch.setattr(compilation, "ROW_BUCKETS", buckets)
    torch._dynamo.reset()
    model = model_to_compile(hf)
    model.compile(lambda forward, **_: torch.compile(forward, dynamic=False, backend=backend))
    before = num_graphs()
    assert before > 0, "nothing was compiled"
    assert drafted(model, expected) == expected
    assert num_graphs() == before, "compiled on the way"


def compiled_graphs(num_layers: int) -> int:
    """How many pieces a Llama of so many layers is compiled in, without code for them."""
    hf = Family("llama", {**family("llama").shape, "num_hidden_layers": num_layers}).build()
    expected = answers(hf)
    torch._dynamo.reset()
    before = num_graphs()
    model = model_to_compile(hf)
    model.compile(lambda forward, **_: torch.compile(forward, dynamic=False, backend="eager"))
    assert drafted(model, expected) == expected
    return num_graphs() - before


@pytest.mark.timeout(300)
def test_layers_share_compiled_code_so_many_layers_compile_like_few() -> None:
    few = compiled_graphs(2)
    assert few > 0, "nothing was compiled"
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        assert compiled_graphs(40) == few


def test_a_model_without_slots_is_not_compiled() -> None:
    model = target_model(family("mamba").build(), max_sequences=1, max_context=100)
    assert model.form is VerificationMode.PLAIN
    with pytest.raises(AssertionError, match="without slots"):
        model.compile(Recorder())
