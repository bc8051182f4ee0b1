"""How much each section measures: on a GPU, or small, to see on a CPU that all of it runs."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sizes:
    """Numbers of rows, streams, tokens and rounds."""

    rounds: int  # of each time; the median counts
    copied_bytes: int  # in one copy, for the bandwidth
    product: int  # width of the square product
    context: int  # cached tokens of a sequence whose passes are timed
    max_context: int
    slots: int
    row_counts: tuple[int, ...]  # of one stream
    stream_rows: tuple[tuple[int, int], ...]  # streams, and rows of each
    streams: tuple[int, ...]  # that answer at once
    requests: int  # of each workload, at least
    tokens: int  # of each answer
    greedy: tuple[int, int]  # requests and tokens whose words are compared
    families: int | None  # built small; None: all
    compared_families: int  # whose words are compared with generate's
    many_slots: int  # of the cache that takes what is free
    profiled_steps: int


FULL = Sizes(
    rounds=7,
    copied_bytes=2 << 30,
    product=8192,
    context=1000,
    max_context=4096,
    slots=64,
    row_counts=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
    stream_rows=((4, 8), (8, 8), (16, 8), (32, 1), (32, 8), (64, 4)),
    streams=(1, 8, 32),
    requests=4,
    tokens=96,
    greedy=(8, 200),
    families=None,
    compared_families=8,
    many_slots=512,
    profiled_steps=5,
)
SMALL = Sizes(
    rounds=2,
    copied_bytes=1 << 20,
    product=128,
    context=80,
    max_context=768,
    slots=4,
    row_counts=(1, 64),
    stream_rows=((2, 8), (4, 1)),
    streams=(1, 2),
    requests=2,
    tokens=24,
    greedy=(2, 24),
    families=2,
    compared_families=1,
    many_slots=16,
    profiled_steps=2,
)
