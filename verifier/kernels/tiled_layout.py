"""How a pass is laid out for the kernels of a GPU: one block of integers, and the cuts of the work.

The block holds, one after the other: HEADER integers; ROW_FIELDS for each row, as many rows as the
pass is padded to; the pieces of work, WORK_FIELDS each; the places of what is not settled; the
pages of the sequences. Offsets stand in the header, so the same code reads every pass.

Blocks of positions are pages. SPLIT of them are folded by one program, cut at fixed positions. A
tile is some rows of one sequence, whose lines (a row's query of one head) go through a tensor core
together. A piece of work is one split of one tile, for one key head.
"""

from collections.abc import Sequence

BLOCK = 64  # positions, as many as a page of the cache has
SPLIT = 8  # blocks
SPAN = BLOCK * SPLIT  # positions of a split
MIN_LINES = 16  # the least that a tensor core takes

# Of the header: the pass's rows and pieces of work; where pieces, places and pages begin.
NUM_ROWS, NUM_WORKS, WORKS_AT, PLACES_AT, PAGES_AT, HEADER = 0, 1, 2, 3, 4, 8
# Of a row: where its sequence's pages begin, its position, its settled positions, where its other
# places begin, its own place; its tile's first piece of work, its number in the tile; its token.
(PAGE_AT, POSITION, SETTLED, OTHERS_AT, PLACE, WORK_AT, TILE_ROW, TOKEN, ROW_FIELDS) = range(9)
# Of a piece of work: the tile's first row, its rows, the split.
WORK_FIELDS = 4

# What the parts of a pass that wait to be merged may take.
SCRATCH_BYTES = 256 << 20


def tile_rows(groups: Sequence[int]) -> int:
    """Rows of a tile, where so many heads share a key in the layers of a model."""
    return max(MIN_LINES // power_of_two(max(groups)), 1)


def num_lines(group: int, rows: int) -> int:
    """Lines of a tile in a layer, those included that only fill it up."""
    return max(MIN_LINES, power_of_two(group * rows))


def power_of_two(number: int) -> int:
    """The least power of two that is not below a number."""
    return 1 << (number - 1).bit_length()


def padded(dim: int) -> int:
    """A dimension as tiles have it."""
    return max(power_of_two(dim), MIN_LINES)


def work_bytes(num_heads: int, key_heads: int, value_dim: int, rows: int) -> int:
    """What a piece of work leaves to be merged, over all key heads of a layer."""
    return 4 * key_heads * num_lines(num_heads // key_heads, rows) * (padded(value_dim) + 2)
