"""Checkpoints, pending tokens and kept states of slots, without a model."""

import torch
from transformers.cache_utils import LinearAttentionLayer

from verifier.cache.chain_slots import MARKS_PER_SLOT, ChainLayer, ChainSlots
from verifier.cache.pages import PAGE
from verifier.cache.slot_layers import LayerShape
from verifier.cache.states import StateShape

RECURRENT = StateShape("recurrent_states", 0, (1, 2), torch.float32)
CONVOLUTION = StateShape("conv_states", 0, (1, 1, 3), torch.float32)


def slots_with(*states: StateShape, num_slots: int = 2) -> ChainSlots:
    return ChainSlots(
        [ChainLayer(LayerShape(1, 4, 4)), ChainLayer(None, states)],
        num_slots=num_slots,
        capacity=2 * PAGE,
        dtype=torch.float32,
        device=torch.device("cpu"),
        is_packed=False,
    )


def state_layer(slots: ChainSlots) -> LinearAttentionLayer:
    layer = slots.cache.layers[1]
    assert isinstance(layer, LinearAttentionLayer)
    return layer


def run(slots: ChainSlots, slot: int, *token_ids: int, is_marked: bool = False) -> tuple[int, ...]:
    """A pass of a layer whose state is the sum and the number of all tokens; what it saw."""
    assert slots.reserve(slot, slots.length(slot) + len(token_ids))
    pending = slots.begin(slot, token_ids, is_padded=False, is_marked=is_marked)
    slots.show([slot])
    layer = state_layer(slots)
    before = layer.recurrent_states[0]
    if not layer.has_previous_state[0]:
        before = torch.zeros(1, 2)
    rows = (*pending, *token_ids)
    assert before is not None
    layer.update_recurrent_state(before + torch.tensor([[float(sum(rows)), float(len(rows))]]))
    slots.end([slot])
    return rows


def state_of(slots: ChainSlots, slot: int) -> list[float]:
    """The state that the slot's next pass starts from."""
    slots.begin(slot, (), is_padded=False, is_marked=False)
    slots.show([slot])
    state = state_layer(slots).recurrent_states[0]
    assert state is not None
    return list(state[0].tolist())


def test_a_pass_that_was_right_as_a_whole_leaves_the_new_checkpoint() -> None:
    slots = slots_with(RECURRENT)
    slot = slots.allocate()
    assert run(slots, slot, 1, 2, 3) == (1, 2, 3)
    slots.commit(slot, [0, 1, 2])
    assert (slots.length(slot), slots.num_pending(slot)) == (3, 0)
    assert state_of(slots, slot) == [6.0, 3.0]


def test_what_was_right_of_a_pass_is_pending_and_run_again() -> None:
    slots = slots_with(RECURRENT)
    slot = slots.allocate()
    run(slots, slot, 1, 2, 3)
    slots.commit(slot, [0, 1, 2])
    run(slots, slot, 4, 5, 60)
    slots.commit(slot, [0, 1])
    assert (slots.length(slot), slots.num_pending(slot)) == (5, 2)
    assert run(slots, slot, 6, 70) == (4, 5, 6, 70)
    slots.commit(slot, [0])
    assert run(slots, slot, 7) == (4, 5, 6, 7)
    slots.commit(slot, [0])
    assert (slots.length(slot), slots.num_pending(slot)) == (7, 0)
    assert state_of(slots, slot) == [28.0, 7.0]


def test_a_pass_with_a_row_too_many_leaves_no_checkpoint() -> None:
    slots = slots_with(RECURRENT)
    slot = slots.allocate()
    slots.reserve(slot, 1)
    slots.begin(slot, (1,), is_padded=True, is_marked=False)
    slots.show([slot])
    slots.end([slot])
    slots.commit(slot, [0])
    assert slots.num_pending(slot) == 1


def test_slots_that_run_one_after_the_other_keep_their_own_states() -> None:
    slots = slots_with(RECURRENT)
    first, second = slots.allocate(), slots.allocate()
    run(slots, first, 1, 2)
    run(slots, second, 10)
    slots.commit(first, [0, 1])
    slots.commit(second, [0])
    assert state_of(slots, first) == [3.0, 2.0]
    assert state_of(slots, second) == [10.0, 1.0]


def test_a_slot_that_is_taken_anew_starts_without_a_state() -> None:
    slots = slots_with(RECURRENT, num_slots=1)
    slot = slots.allocate()
    run(slots, slot, 1, 2)
    slots.commit(slot, [0])
    slots.free(slot)
    assert slots.allocate() == slot
    assert slots.num_pending(slot) == 0
    run(slots, slot, 5)
    slots.commit(slot, [0])
    assert state_of(slots, slot) == [5.0, 1.0]


def remembered(slots: ChainSlots, slot: int) -> list[int]:
    """The slot's pages, from now on kept when it ends."""
    for page in slots.table(slot):
        slots.pages.know(page)
    return list(slots.table(slot))


def test_reuse_goes_back_to_the_last_state_that_is_kept() -> None:
    slots = slots_with(RECURRENT)
    slot = slots.allocate()
    run(slots, slot, 1, 2, 3, is_marked=True)
    slots.commit(slot, [0, 1, 2])
    run(slots, slot, 4, 5)
    slots.commit(slot, [0, 1])
    run(slots, slot, 6, 70)
    slots.commit(slot, [0])
    pages = remembered(slots, slot)
    assert slots.settled(slot) == 5
    assert [slots.reusable(pages, n) for n in range(7)] == [0, 0, 0, 3, 3, 3, 3]
    slots.free(slot)  # leaves its checkpoint
    assert [slots.reusable(pages, n) for n in range(7)] == [0, 0, 0, 3, 3, 5, 5]
    for length, state in ((5, [15.0, 5.0]), (3, [6.0, 3.0])):
        other = slots.allocate()
        slots.share(other, pages, length)
        assert (slots.length(other), state_of(slots, other)) == (length, state)


def test_states_go_with_the_pages_that_they_belong_to() -> None:
    slots = slots_with(RECURRENT, num_slots=1)
    slot = slots.allocate()
    run(slots, slot, 1, 2, 3, is_marked=True)
    slots.commit(slot, [0, 1, 2])
    pages = list(slots.table(slot))
    slots.free(slot)  # nobody keeps its pages
    slots.allocate()
    assert slots.reserve(slot, 2)
    assert list(slots.table(slot)) == pages
    assert slots.reusable(pages, 3) == 0


def test_the_state_of_a_pass_that_was_not_committed_is_not_kept() -> None:
    slots = slots_with(CONVOLUTION)
    slot = slots.allocate()
    convolve(slots, slot, 1, 2)
    slots.commit(slot, [0, 1])
    convolve(slots, slot, 3)
    pages = remembered(slots, slot)
    slots.free(slot)
    assert slots.reusable(pages, 3) == 0


def test_without_a_page_for_the_last_rows_a_slot_begins_anew() -> None:
    slots = slots_with(RECURRENT)
    slot, other = slots.allocate(), slots.allocate()
    run(slots, slot, 1, 2, 3, is_marked=True)
    slots.commit(slot, [0, 1, 2])
    while slots.pages.num_available:
        slots.pages.take()
    slots.share(other, slots.table(slot), 3)
    assert slots.length(other) == 0


def test_the_state_used_longest_ago_gives_way() -> None:
    slots = slots_with(RECURRENT, num_slots=1)
    slot = slots.allocate()
    for token_id in range(MARKS_PER_SLOT + 2):
        run(slots, slot, token_id, is_marked=True)
        slots.commit(slot, [0])
    pages = slots.table(slot)
    kept = {slots.reusable(pages, length) for length in range(MARKS_PER_SLOT + 3)}
    assert kept == {0, *range(3, MARKS_PER_SLOT + 3)}


def test_a_prompt_promises_the_states_that_it_will_keep() -> None:
    slots = slots_with(RECURRENT)
    assert slots.promised(1500, 3000) == 1024
    assert slots.promised(2999, 3000) == 2999
    assert slots.promised(700, 3000) == 0


def convolve(slots: ChainSlots, slot: int, *inputs: float) -> list[float]:
    """A pass of a convolution over its inputs; the inputs that it saw."""
    assert slots.reserve(slot, slots.length(slot) + len(inputs))
    assert slots.begin(slot, tuple(map(int, inputs)), is_padded=False, is_marked=False) == ()
    slots.show([slot])
    rows = torch.tensor(inputs).view(1, 1, -1)
    seen = state_layer(slots).update_conv_state(rows, conv_kernel_size=3)
    slots.end([slot])
    return list(seen.flatten().tolist())


def test_convolutions_go_back_to_where_the_draft_was_right() -> None:
    slots = slots_with(CONVOLUTION)
    slot, other = slots.allocate(), slots.allocate()
    assert convolve(slots, slot, 1, 2) == [1, 2]
    convolve(slots, other, 8, 8, 8)
    slots.commit(slot, [0])
    slots.commit(other, [0, 1, 2])
    assert convolve(slots, slot, 3, 4, 5, 6) == [0, 0, 1, 3, 4, 5, 6]
    slots.commit(slot, [0, 1, 2])
    assert slots.num_pending(slot) == 0
    assert convolve(slots, slot, 7) == [3, 4, 5, 7]
    assert convolve(slots, other, 9) == [8, 8, 8, 9]


def test_slots_in_one_pass_keep_their_own_states() -> None:
    slots = slots_with(RECURRENT)
    both = [slots.allocate(), slots.allocate()]
    for step in range(3):
        for slot in both:
            slots.reserve(slot, step + 1)
            slots.begin(slot, (step,), is_padded=False, is_marked=False)
        slots.show(both)
        layer = state_layer(slots)
        before = layer.recurrent_states[0]
        assert before is not None
        before = before if layer.has_previous_state[0] else torch.zeros(2, 2)
        layer.update_recurrent_state(before + torch.tensor([[1.0, 1.0], [10.0, 1.0]]))
        slots.end(both)
        for slot in both:
            slots.commit(slot, [0])
    assert [state_of(slots, slot) for slot in both] == [[3.0, 3.0], [30.0, 3.0]]


def test_convolutions_in_one_pass_go_back_each_to_its_own_place() -> None:
    slots = slots_with(CONVOLUTION)
    both = [slots.allocate(), slots.allocate()]
    for slot in both:
        slots.reserve(slot, 3)
        slots.begin(slot, (1, 2, 3), is_padded=False, is_marked=False)
    slots.show(both)
    rows = torch.tensor([[[1.0, 2, 3]], [[4.0, 5, 6]]])
    state_layer(slots).update_conv_state(rows, conv_kernel_size=3)
    slots.end(both)
    slots.commit(both[0], [0])
    slots.commit(both[1], [0, 1])
    assert convolve(slots, both[0], 7) == [0, 0, 1, 7]
    assert convolve(slots, both[1], 8) == [0, 4, 5, 8]
