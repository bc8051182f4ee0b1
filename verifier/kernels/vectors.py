"""Vectors of floats inside numba functions: every sum in an order that the source shows.

numba alone leaves it to the compiler which loop becomes vectors and which product is fused with
which sum, and two loops that say the same may round differently. Here each operation is written
out, so a row's bits depend on what is written and on nothing around it.

Memory is addressed by integers, in bytes.
"""

from collections.abc import Callable, Iterable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.datamodel import models, register_default
from numba.extending import intrinsic

LANES = 16
TILE = 4  # lines that are worked through together; LANES are TILE of them, over and over
FLOAT, INT, INT64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
FLOATS, INTS = ir.VectorType(FLOAT, LANES), ir.VectorType(INT, LANES)


class _Vector(types.Type):
    def __init__(self) -> None:
        super().__init__(name=f"Floats{LANES}")


vector = _Vector()


@register_default(_Vector)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, FLOATS)


Emit = Callable[..., Any]


def _operation(result: Any, *arguments: Any) -> Callable[[Emit], Any]:
    """A function of numba code whose instructions are what the decorated one builds."""

    def decorate(emit: Emit) -> Any:
        def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return emit(builder, *values)

        names = ", ".join(f"a{i}" for i in range(len(arguments)))
        scope: dict[str, Any] = {"typed": (result(*arguments), code)}
        # numba wants a function with as many names as there are arguments.
        exec(f"def operation(context, {names}):\n    return typed", scope)  # noqa: S102
        operation = scope["operation"]
        operation.__name__ = emit.__name__
        return intrinsic(operation)

    return decorate


def _pointer(builder: Any, address: Any, kind: Any) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


def _splat(builder: Any, value: Any, kind: Any) -> Any:
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, INT(0))
    return builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), INTS(None))


def _constant(value: float) -> Any:
    return ir.Constant(FLOATS, [ir.Constant(FLOAT, value)] * LANES)


def _call(builder: Any, name: str, *values: Any) -> Any:
    kind = values[0].type
    suffix = "v16f32" if kind == FLOATS else "f32"
    function = builder.module.globals.get(f"llvm.{name}.{suffix}")
    if function is None:
        shape = ir.FunctionType(kind, [kind] * len(values))
        function = ir.Function(builder.module, shape, f"llvm.{name}.{suffix}")
    return builder.call(function, values)


@_operation(types.int64, types.int64)
def load_int(builder: Any, address: Any) -> Any:
    """The 64-bit integer at an address."""
    return builder.load(_pointer(builder, address, INT64))


@_operation(types.float32, types.int64)
def load_float(builder: Any, address: Any) -> Any:
    """The float at an address."""
    return builder.load(_pointer(builder, address, FLOAT))


@_operation(types.void, types.int64, types.float32)
def store_float(builder: Any, address: Any, value: Any) -> Any:
    """Write a float."""
    builder.store(value, _pointer(builder, address, FLOAT))


@_operation(types.void, types.int64, types.int64)
def store_int(builder: Any, address: Any, value: Any) -> Any:
    """Write a 64-bit integer."""
    builder.store(value, _pointer(builder, address, INT64))


@_operation(types.int64, types.int64)
def take_ticket(builder: Any, address: Any) -> Any:
    """Count up the integer at an address, for all threads; return what it was."""
    return builder.atomic_rmw("add", _pointer(builder, address, INT64), INT64(1), "monotonic")


@_operation(vector, types.int64)
def load(builder: Any, address: Any) -> Any:
    """LANES floats."""
    return builder.load(_pointer(builder, address, FLOATS), align=4)


@_operation(vector, types.int64)
def load_bfloat16(builder: Any, address: Any) -> Any:
    """LANES bfloat16 numbers, widened."""
    short = ir.VectorType(ir.IntType(16), LANES)
    wide = builder.zext(builder.load(_pointer(builder, address, short), align=2), INTS)
    sixteen = ir.Constant(INTS, [INT(16)] * LANES)
    return builder.bitcast(builder.shl(wide, sixteen), FLOATS)


@_operation(vector, types.int64)
def load_float16(builder: Any, address: Any) -> Any:
    """LANES float16 numbers, widened."""
    half = ir.VectorType(ir.HalfType(), LANES)
    return builder.fpext(builder.load(_pointer(builder, address, half), align=2), FLOATS)


@_operation(types.void, types.int64, vector)
def store(builder: Any, address: Any, value: Any) -> Any:
    """Write LANES floats."""
    builder.store(value, _pointer(builder, address, FLOATS), align=4)


@_operation(vector, types.float32)
def splat(builder: Any, value: Any) -> Any:
    """The same number in every lane."""
    return _splat(builder, value, FLOATS)


@_operation(vector, vector, vector, vector)
def fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once."""
    return _call(builder, "fma", a, b, c)


@_operation(vector, vector, vector)
def multiply(builder: Any, a: Any, b: Any) -> Any:
    """a * b."""
    return builder.fmul(a, b)


@_operation(vector, vector, vector)
def add(builder: Any, a: Any, b: Any) -> Any:
    """a + b."""
    return builder.fadd(a, b)


@_operation(vector, vector, vector)
def maximum(builder: Any, a: Any, b: Any) -> Any:
    """The larger one of each lane; of NaN and a number, b."""
    return _larger(builder, a, b)


@_operation(vector, vector)
def largest_by_line(builder: Any, value: Any) -> Any:
    """Lanes are TILE lines over and over: the largest of each line, in all its lanes."""
    return _fold_lines(builder, value, lambda a, b: _larger(builder, a, b))


@_operation(vector, vector)
def total_by_line(builder: Any, value: Any) -> Any:
    """Lanes are TILE lines over and over: the sum of each line, in all its lanes."""
    return _fold_lines(builder, value, builder.fadd)


@_operation(types.void, types.int64, vector, vector, vector, vector)
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
    low, high = (_lanes(builder, *pairs, lanes) for lanes in ((0, 1, 4, 5), (2, 3, 6, 7)))
    kind = ir.VectorType(FLOAT, TILE)
    builder.store(builder.fadd(low, high), _pointer(builder, address, kind), align=4)


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


@_operation(vector, vector, vector)
def exp_difference(builder: Any, a: Any, b: Any) -> Any:
    """e to the power of a - b, which is at most 0; 0 below -87, and where a is no number."""
    return _exp(builder, builder.fsub(a, b))


@_operation(vector, vector, vector)
def choose_finite(builder: Any, a: Any, b: Any) -> Any:
    """b, but where a is minus infinity, a."""
    lowest = ir.Constant(FLOATS, [ir.Constant(FLOAT, float("-inf"))] * LANES)
    return builder.select(builder.fcmp_ordered("==", a, lowest), a, b)


@_operation(types.float32, vector, types.int64)
def lane(builder: Any, value: Any, index: Any) -> Any:
    """One lane."""
    return builder.extract_element(value, builder.trunc(index, INT))


@_operation(vector, vector)
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
    bias = ir.Constant(INTS, [INT(127)] * LANES)
    shift = ir.Constant(INTS, [INT(23)] * LANES)
    exponent = builder.shl(builder.add(builder.fptosi(n, INTS), bias), shift)
    power = builder.fmul(p, builder.bitcast(exponent, FLOATS))
    return builder.select(is_nothing, _constant(0.0), power)
