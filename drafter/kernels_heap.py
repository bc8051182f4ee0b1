"""Kernels of the heap: candidates by their path chance, the greatest on top."""

import numpy as np

from drafter.kernels import Int, part
from drafter.kernels_record import Floats, Ints


@part
def push(heap: Ints, start: Int, chances: Floats, size: Int, candidate: Int) -> Int:
    """Add a candidate; return the heap's new size."""
    value = chances[candidate]
    at = np.int64(size)
    while at > 0:
        above = (at - 1) >> 1
        if chances[heap[start + above]] >= value:
            break
        heap[start + at] = heap[start + above]
        at = above
    heap[start + at] = candidate
    return size + 1


@part
def pop(heap: Ints, start: Int, chances: Floats, size: Int) -> Int:
    """Take the greatest candidate off; the heap is one smaller afterwards."""
    best = np.int64(heap[start])
    last = np.int64(heap[start + size - 1])
    size -= 1
    value = chances[last]
    at = np.int64(0)
    while True:
        below = 2 * at + 1
        if below >= size:
            break
        if below + 1 < size and _is_greater(heap, chances, start + below + 1, start + below):
            below += 1
        if chances[heap[start + below]] <= value:
            break
        heap[start + at] = heap[start + below]
        at = below
    heap[start + at] = last
    return best


@part
def _is_greater(heap: Ints, chances: Floats, first: Int, second: Int) -> bool:
    return bool(chances[heap[first]] > chances[heap[second]])
