"""Numbers for objects that an operation of a compiled forward needs and cannot be given.

A number comes as a tensor: compiled code is then the same for all layers. It is on the CPU, so
reading it waits for no device.
"""

from itertools import count
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

import torch
from torch import Tensor

T = TypeVar("T")


class Handles(Generic[T]):
    """Objects by their numbers, for as long as somebody else holds them."""

    def __init__(self) -> None:
        self._held: WeakValueDictionary[int, T] = WeakValueDictionary()
        self._numbers = count()

    def give(self, held: T) -> Tensor:
        """A new number for an object."""
        number = next(self._numbers)
        self._held[number] = held
        return torch.tensor(number)

    def __getitem__(self, handle: Tensor) -> T:
        return self._held[int(handle)]
