"""A step waits for its device once, however many sequences it runs: no wait is hidden anywhere."""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.models.engine_runs import LetterDetokenizer, make_request
from tests.verifier.model.test_devices import meta_model
from verifier.engine.sequence import Sequence
from verifier.engine.step import SUCCESSORS_PER_TOKEN, Drafts, StepResult, decode_work, run_step
from verifier.model.model import TargetModel, VerificationMode
from verifier.sampling.params import SamplingParams
from verifier.speculation.tree import DraftTree

# Its second node is passed over, so the third one's row has to move.
TREE = DraftTree((3, 4, 5), (-1, 0, 0), (1.0, 0.9, 0.8))
PATH = [3, 5, 9, 9]  # the best token after each row

# What asks a device for a value, or for a shape that depends on one.
HIDDEN = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique")

Answer = Callable[[tuple[int, ...]], Tensor]


class Waits(TorchDispatchMode):
    """Counts what a device is waited for; `answer` stands for what it would send."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self._answer = answer

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        kwargs = kwargs or {}
        name = func.__name__.split(".")[0]
        given = next((a for a in args if isinstance(a, Tensor)), None)
        on_device = given is not None and given.device.type == "meta"
        target = torch.device(kwargs.get("device") or (given.device if on_device else "cpu"))
        if on_device and any(name.startswith(hidden) for hidden in HIDDEN):
            self.counts[f"hidden: {name}"] += 1
        if on_device and name.startswith("index") and any(map(_waits, args[1])):
            self.counts[f"hidden: {name} by values"] += 1
        if name in ("to", "_to_copy") and on_device and target.type == "cpu":
            self.counts["out"] += 1
            return self._answer(tuple(given.shape)).to(kwargs.get("dtype") or given.dtype)
        if name in ("to", "_to_copy") and not on_device and target.type == "meta":
            is_async = kwargs.get("non_blocking", False)
            self.counts["in" if is_async else "hidden: a copy that waits"] += 1
        return func(*args, **kwargs)


def _waits(index: object) -> bool:
    """Whether to look things up by this index takes knowing its values, or sending them first."""
    return isinstance(index, Tensor) and (index.dtype is torch.bool or index.device.type == "cpu")


def best_of_path(shape: tuple[int, ...]) -> Tensor:
    """A ranking in which each sequence goes the one path, or as many draws."""
    if shape[1:] == (2 * SUCCESSORS_PER_TOKEN,):  # ids and scores of the best of each row
        host = torch.arange(shape[1], 0, -1).double().expand(shape).clone()
        host[:, 0] = torch.tensor(PATH * (shape[0] // len(PATH)))
        return host
    return torch.zeros(shape)


def decoding(model: TargetModel, slot: int, sampling: SamplingParams) -> Sequence:
    sequence = Sequence(slot, make_request([1] * 10, 100, sampling=sampling), LetterDetokenizer())
    sequence.slot = model.slots.allocate()
    model.slots.reserve(sequence.slot, 10)
    model.slots.commit(sequence.slot, list(range(10)))
    sequence.take([7])
    return sequence


def step(model: TargetModel, sequences: list[Sequence]) -> StepResult:
    drafts = Drafts({s.id: TREE for s in sequences}, True, 0.0, has_drafter=True)
    return run_step(model, [decode_work(s, model.slots.length(s.slot), drafts) for s in sequences])


@pytest.mark.parametrize("num_sequences", [1, 3])
@pytest.mark.parametrize(
    ("sampling", "num_waits"),
    [
        (SamplingParams(), 1),
        (SamplingParams(temperature=1.0), 2),
        (SamplingParams(temperature=1.0, top_p=0.9), 2),
    ],
)
def test_a_step_waits_once_and_once_more_for_all_draws(
    num_sequences: int, sampling: SamplingParams, num_waits: int
) -> None:
    model = meta_model(VerificationMode.PACKED)
    sequences = [decoding(model, slot, sampling) for slot in range(num_sequences)]
    for _ in range(2):  # the second step moves the rows of the first one
        with Waits(best_of_path) as waits:
            found = step(model, sequences)
        assert {name for name in waits.counts if name.startswith("hidden")} == set()
        assert waits.counts["out"] == num_waits
    if sampling.is_greedy:
        for result in found.results:
            assert result.accepted is not None
            assert result.accepted.path == [0, 2]
            assert result.successors is not None and result.successors.shape == (3, 8)


@pytest.mark.parametrize(
    "waits_for",
    [
        lambda x: x[0, 0].item(),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: bool((x > 0).any()),
        lambda x: x.add_(torch.ones(2, 2).to(x.device)),
    ],
)
def test_a_hidden_wait_is_found(waits_for: Callable[[Tensor], object]) -> None:
    # `meta` has no values to give.
    with Waits(torch.zeros) as waits, suppress(NotImplementedError, RuntimeError):
        waits_for(torch.empty(2, 2, device="meta"))
    assert any(name.startswith("hidden") for name in waits.counts), waits.counts
