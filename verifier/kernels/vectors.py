"""Vectors of floats inside numba functions: every sum in an order that the source shows.

numba alone leaves it to the compiler which loop becomes vectors and which product is fused with
which sum, and two loops that say the same may round differently. Here each operation is written
out, so a row's bits depend on what is written and on nothing around it.

Memory is addressed by integers, in bytes.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.datamodel.models import PrimitiveModel
from numba.core.datamodel.registry import register_default
from numba.extending import intrinsic

LANES = 16
TILE = 4  # lines that are worked through together; LANES are TILE of them, over and over
FLOAT, INT, INT64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
FLOATS, INTS = ir.VectorType(FLOAT, LANES), ir.VectorType(INT, LANES)
HALVES, SHORTS = ir.VectorType(ir.HalfType(), LANES), ir.VectorType(ir.IntType(16), LANES)

# The kinds of numbers in memory. Functions take one of these, and are compiled for each.
FLOAT32, BFLOAT16, FLOAT16 = np.float32(0), np.uint16(0), np.int16(0)


class _Vector(types.Type):
    def __init__(self) -> None:
        super().__init__(name=f"Floats{LANES}")


vector = _Vector()


@register_default(_Vector)
class _VectorModel(PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, FLOATS)  # type: ignore[no-untyped-call]


Emit = Callable[..., Any]


def operation(result: Any, *arguments: Any) -> Callable[[Emit], Any]:
    """Declare a function of numba code whose instructions are what the decorated one builds."""

    def decorate(emit: Emit) -> Any:
        def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return emit(builder, *values)  # None where there is no result

        typed = result(*arguments), code
        # numba wants to see as many names as there are arguments.
        by_count: dict[int, Callable[..., Any]] = {
            1: lambda context, a: typed,
            2: lambda context, a, b: typed,
            3: lambda context, a, b, c: typed,
            5: lambda context, a, b, c, d, e: typed,
        }
        return intrinsic(by_count[len(arguments)])

    return decorate


def pointer(builder: Any, address: Any, kind: Any) -> Any:
    """The address as LLVM wants it, of a number of a kind."""
    return builder.inttoptr(address, kind.as_pointer())


def _splat(builder: Any, value: Any) -> Any:
    nothing = ir.Constant(FLOATS, ir.Undefined)
    first = builder.insert_element(nothing, value, INT(0))
    return builder.shuffle_vector(first, nothing, INTS(None))


def _integer(value: int) -> Any:
    return ir.Constant(INTS, [INT(value)] * LANES)


def _constant(value: float) -> Any:
    return ir.Constant(FLOATS, [ir.Constant(FLOAT, value)] * LANES)


def call(builder: Any, name: str, values: Iterable[Any], result: Any) -> Any:
    """Call a function of LLVM, or of the C library."""
    values = list(values)
    kind = ir.FunctionType(result, [value.type for value in values])
    find: Any = cgutils.get_or_insert_function
    return builder.call(find(builder.module, kind, name), values)


def _call(builder: Any, name: str, *values: Any) -> Any:
    """Call one of LLVM's functions of floats, which has a form for each type."""
    kind = values[0].type
    suffix = "v16f32" if kind == FLOATS else "f32"
    return call(builder, f"llvm.{name}.{suffix}", values, kind)


@operation(types.int64, types.int64)
def load_int(builder: Any, address: Any) -> Any:
    """The 64-bit integer at an address."""
    return builder.load(pointer(builder, address, INT64))


@operation(types.float32, types.int64)
def load_float(builder: Any, address: Any) -> Any:
    """The float at an address."""
    return builder.load(pointer(builder, address, FLOAT))


@operation(types.void, types.int64, types.float32)
def store_float(builder: Any, address: Any, value: Any) -> Any:
    """Write a float."""
    builder.store(value, pointer(builder, address, FLOAT))


@operation(types.void, types.int64, types.int64)
def store_int(builder: Any, address: Any, value: Any) -> Any:
    """Write a 64-bit integer."""
    builder.store(value, pointer(builder, address, INT64))


def _function(code: Callable[..., Any]) -> Any:
    """A function of numba code whose arguments' types decide on its instructions."""
    return intrinsic(code)


def _load(builder: Any, kind: Any, address: Any) -> Any:
    if kind == types.float32:
        return builder.load(pointer(builder, address, FLOATS), align=4)
    if kind == types.int16:
        return builder.fpext(builder.load(pointer(builder, address, HALVES), align=2), FLOATS)
    short = builder.load(pointer(builder, address, SHORTS), align=2)
    return builder.bitcast(builder.shl(builder.zext(short, INTS), _integer(16)), FLOATS)


@_function
def load(context: Any, kind: Any, address: Any) -> Any:
    """LANES numbers of a kind, as floats."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return _load(builder, kind, values[1])

    return vector(kind, types.int64), code


@_function
def size_of(context: Any, kind: Any) -> Any:
    """Bytes of a number of a kind."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return INT64(kind.bitwidth // 8)

    return types.int64(kind), code


@operation(types.void, types.int64, vector)
def store(builder: Any, address: Any, value: Any) -> Any:
    """Write LANES floats."""
    builder.store(value, pointer(builder, address, FLOATS), align=4)


@_function
def store_as(context: Any, kind: Any, address: Any, value: Any) -> Any:
    """Write LANES numbers of a kind, rounded to nearest, ties to even."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        _, address, value = values
        if kind == types.float32:
            builder.store(value, pointer(builder, address, FLOATS), align=4)
        elif kind == types.int16:
            half = builder.fptrunc(value, HALVES)
            builder.store(half, pointer(builder, address, HALVES), align=2)
        else:
            builder.store(_bfloat16(builder, value), pointer(builder, address, SHORTS), align=2)

    return types.void(kind, types.int64, vector), code


def _bfloat16(builder: Any, value: Any) -> Any:
    bits = builder.bitcast(value, INTS)
    odd = builder.and_(builder.lshr(bits, _integer(16)), _integer(1))
    rounded = builder.lshr(builder.add(bits, builder.add(odd, _integer(0x7FFF))), _integer(16))
    is_number = builder.fcmp_ordered("ord", value, value)
    return builder.trunc(builder.select(is_number, rounded, _integer(0x7FC0)), SHORTS)


def _fetch(builder: Any, address: Any) -> None:
    """Bring what lies at an address near; nothing happens where nothing does."""
    kind = ir.IntType(8)
    for_reading, into_nearest, data = INT(0), INT(3), INT(1)
    values = (pointer(builder, address, kind), for_reading, into_nearest, data)
    call(builder, "llvm.prefetch.p0i8", values, ir.VoidType())


def multiply_add(rows: int, panels: int, *, fresh: bool) -> Any:
    """The inner loop of products, for so many rows and panels.

    It takes the kind of the weights; the address of rows of floats and the bytes between them; the
    same of panels [depth, LANES]; the depth; the address of sums [rows, LANES] with the bytes
    between those of one panel and the next; and how many bytes ahead it fetches weights. To each
    sum it adds the row's numbers times the panel's, one after the other. Sums that are `fresh`
    begin at zero.
    """

    def multiply(
        context: Any,
        kind: Any,
        x: Any,
        row: Any,
        w: Any,
        panel: Any,
        depth: Any,
        sums: Any,
        stride: Any,
        ahead: Any,
    ) -> Any:
        def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            _multiply_add(builder, kind, rows, panels, fresh, *values[1:])

        return types.void(kind, *[types.int64] * 8), code

    return intrinsic(multiply)


def _multiply_add(
    builder: Any,
    kind: Any,
    rows: int,
    panels: int,
    fresh: bool,
    x: Any,
    row: Any,
    w: Any,
    panel: Any,
    depth: Any,
    sums: Any,
    stride: Any,
    ahead: Any,
) -> None:
    def after(start: Any, step: Any, count: int) -> Any:
        return builder.add(start, builder.mul(step, INT64(count)))

    cells = [(r, p) for r in range(rows) for p in range(panels)]
    places = {(r, p): after(after(sums, stride, p), INT64(4 * LANES), r) for r, p in cells}
    allocate: Any = cgutils.alloca_once
    held = {cell: allocate(builder, FLOATS) for cell in cells}
    for cell, place in places.items():
        first = _constant(0.0) if fresh else _load(builder, types.float32, place)
        builder.store(first, held[cell])
    xs = [after(x, row, r) for r in range(rows)]
    ws = [after(w, panel, p) for p in range(panels)]
    with cgutils.for_range(builder, depth) as loop:
        at = builder.mul(loop.index, INT64(LANES * kind.bitwidth // 8))
        places_of = [builder.add(start, at) for start in ws]
        for place in places_of:
            _fetch(builder, builder.add(place, ahead))
        loaded = [_load(builder, kind, place) for place in places_of]
        for r in range(rows):
            number = builder.load(pointer(builder, after(xs[r], loop.index, 4), FLOAT))
            factor = _splat(builder, number)
            for p in range(panels):
                total = _call(builder, "fma", factor, loaded[p], builder.load(held[r, p]))
                builder.store(total, held[r, p])
    for cell, place in places.items():
        builder.store(builder.load(held[cell]), pointer(builder, place, FLOATS), align=4)


@operation(vector, types.float32)
def splat(builder: Any, value: Any) -> Any:
    """The same number in every lane."""
    return _splat(builder, value)


@operation(vector, vector, vector, vector)
def fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once."""
    return _call(builder, "fma", a, b, c)


@operation(vector, vector, vector)
def multiply(builder: Any, a: Any, b: Any) -> Any:
    """a * b."""
    return builder.fmul(a, b)


@operation(vector, vector, vector)
def add(builder: Any, a: Any, b: Any) -> Any:
    """a + b."""
    return builder.fadd(a, b)


@operation(vector, vector, vector)
def maximum(builder: Any, a: Any, b: Any) -> Any:
    """The larger one of each lane; of NaN and a number, b."""
    return _larger(builder, a, b)


@operation(vector, vector)
def largest_by_line(builder: Any, value: Any) -> Any:
    """Lanes are TILE lines over and over: the largest of each line, in all its lanes."""
    return _fold_lines(builder, value, lambda a, b: _larger(builder, a, b))


@operation(vector, vector)
def total_by_line(builder: Any, value: Any) -> Any:
    """Lanes are TILE lines over and over: the sum of each line, in all its lanes."""
    return _fold_lines(builder, value, builder.fadd)


@operation(types.void, types.int64, vector, vector, vector, vector)
def store_totals(builder: Any, address: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """Write the sum of the lanes of each of TILE vectors, side by side."""
    fours = []
    for value in (a, b, c, d):
        for width in (8, 4):
            low = _lanes(builder, value, value, range(width))
            value = builder.fadd(low, _lanes(builder, value, value, range(width, 2 * width)))
        fours.append(value)
    pairs = [
        builder.fadd(
            _lanes(builder, first, second, (0, 4, 1, 5)),
            _lanes(builder, first, second, (2, 6, 3, 7)),
        )
        for first, second in (fours[:2], fours[2:])
    ]
    low, high = (
        _lanes(builder, pairs[0], pairs[1], lanes) for lanes in ((0, 1, 4, 5), (2, 3, 6, 7))
    )
    kind = ir.VectorType(FLOAT, TILE)
    builder.store(builder.fadd(low, high), pointer(builder, address, kind), align=4)


def _larger(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def _fold_lines(builder: Any, value: Any, combine: Callable[[Any, Any], Any]) -> Any:
    for step in (8, 4):
        turned = _lanes(builder, value, value, [(i + step) % LANES for i in range(LANES)])
        value = combine(value, turned)
    return value


def _lanes(builder: Any, first: Any, second: Any, lanes: Iterable[int]) -> Any:
    """Choose lanes out of two vectors, counted through both."""
    chosen = [INT(lane) for lane in lanes]
    return builder.shuffle_vector(
        first, second, ir.Constant(ir.VectorType(INT, len(chosen)), chosen)
    )


# exp(x) = 2^n * exp(r), n whole and |r| <= ln(2) / 2: Cephes' polynomial, within 1 unit in the
# last place or so.
LOG2_E, LN2_HIGH, LN2_LOW = 1.44269504088896341, 0.693359375, -2.12194440e-4
TERMS = (
    1.9875691500e-4,
    1.3981999507e-3,
    8.3334519073e-3,
    4.1665795894e-2,
    1.6666665459e-1,
    5.0000001201e-1,
)
LOWEST = -87.0  # below, the result is not a normal number: it counts as nothing


@operation(vector, vector, vector)
def exp_difference(builder: Any, a: Any, b: Any) -> Any:
    """e to the power of a - b, which is at most 0; 0 below -87, and where a is no number."""
    return _exp(builder, builder.fsub(a, b))


@operation(vector, vector, vector)
def choose_finite(builder: Any, a: Any, b: Any) -> Any:
    """b, but where a is minus infinity, a."""
    lowest = ir.Constant(FLOATS, [ir.Constant(FLOAT, float("-inf"))] * LANES)
    return builder.select(builder.fcmp_ordered("==", a, lowest), a, b)


@operation(types.float32, vector, types.int64)
def lane(builder: Any, value: Any, index: Any) -> Any:
    """One lane."""
    return builder.extract_element(value, builder.trunc(index, INT))


@operation(vector, vector)
def tanh(builder: Any, x: Any) -> Any:
    """The hyperbolic tangent of each lane."""
    size = _call(builder, "fabs", x)
    power = _exp(builder, builder.fmul(size, _constant(-2.0)))
    one = _constant(1.0)
    found = builder.fdiv(builder.fsub(one, power), builder.fadd(one, power))
    return _call(builder, "copysign", found, x)


def _exp(builder: Any, x: Any) -> Any:
    is_nothing = builder.fcmp_unordered("<", x, _constant(LOWEST))
    x = builder.select(is_nothing, _constant(LOWEST), x)
    n = _call(builder, "rint", builder.fmul(x, _constant(LOG2_E)))
    r = _call(builder, "fma", n, _constant(-LN2_HIGH), x)
    r = _call(builder, "fma", n, _constant(-LN2_LOW), r)
    p = _constant(TERMS[0])
    for term in TERMS[1:]:
        p = _call(builder, "fma", p, r, _constant(term))
    p = _call(builder, "fma", builder.fmul(p, r), r, builder.fadd(r, _constant(1.0)))
    exponent = builder.shl(builder.add(builder.fptosi(n, INTS), _integer(127)), _integer(23))
    power = builder.fmul(p, builder.bitcast(exponent, FLOATS))
    return builder.select(is_nothing, _constant(0.0), power)
