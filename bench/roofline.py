"""A roofline of a decoding step on a GPU: weights and cache read, products computed, calls made.

Peak figures are the makers' data sheets (dense bfloat16); the shares reached and the cost of calls
are assumptions, named here, not measurements.
"""

from dataclasses import dataclass

ITEM_BYTES = 2  # bfloat16
BANDWIDTH_SHARE, FLOPS_SHARE = 0.8, 0.6  # of the data sheet, that large models reach
EAGER_LAYER_S = 500e-6  # calls from Python: what transformers spends on a layer
GRAPH_LAYER_S = 15e-6  # gaps between the kernels of a layer when a CUDA graph replays them
HOP_S = 1e-3  # asking the drafter


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU by its data sheet."""

    name: str
    bandwidth: float  # bytes per second
    flops: float  # bfloat16, dense, per second
    memory: float  # bytes


@dataclass(frozen=True, slots=True)
class Shape:
    """A dense decoder."""

    name: str
    parameters: float
    num_layers: int
    hidden: int
    kv_dim: int  # key heads x their width

    @property
    def kv_bytes(self) -> int:
        """Bytes of one cached token."""
        return 2 * self.num_layers * self.kv_dim * ITEM_BYTES


CARDS = (
    Card("A100 80GB", 2.039e12, 312e12, 80e9),
    Card("H100 SXM", 3.35e12, 989e12, 80e9),
    Card("L40S", 0.864e12, 362e12, 48e9),
)
SHAPES = (
    Shape("1B", 1.24e9, 16, 2048, 512),
    Shape("8B", 8.03e9, 32, 4096, 1024),
    Shape("32B", 32.5e9, 64, 5120, 1024),
)


def fits(card: Card, shape: Shape, num_sequences: int, context: int) -> bool:
    """Whether the weights and all sequences' caches have room in nine tenths of the memory."""
    used = ITEM_BYTES * shape.parameters + num_sequences * context * shape.kv_bytes
    return used < 0.9 * card.memory


def step_s(
    card: Card, shape: Shape, *, rows: float, num_sequences: int, context: int, graphs: bool
) -> float:
    """Seconds of a pass of so many rows over sequences of so many cached tokens each."""
    read = ITEM_BYTES * shape.parameters + num_sequences * context * shape.kv_bytes
    products = 2 * shape.parameters * rows
    attention = 4 * rows * context * shape.num_layers * shape.hidden
    device_s = max(
        read / (BANDWIDTH_SHARE * card.bandwidth),
        (products + attention) / (FLOPS_SHARE * card.flops),
    )
    if graphs:
        return device_s + shape.num_layers * GRAPH_LAYER_S
    # Calls are made ahead of the device: the slower of the two sets the pace.
    return max(device_s, shape.num_layers * EAGER_LAYER_S)
