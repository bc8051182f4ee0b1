"""What threads that share memory need inside numba functions: atomic integers, and waiting.

Memory is addressed by integers, in bytes.
"""

import platform
from typing import Any

from llvmlite import ir
from numba.core import types

from verifier.kernels.vectors import INT, INT64, call, operation, pointer

NUM_SPINS = 50_000  # about a millisecond; then others may have the processor
_HAS_PAUSE = platform.machine().lower() in ("x86_64", "amd64")


@operation(types.int64, types.int64)
def take_ticket(builder: Any, address: Any) -> Any:
    """Count up the integer at an address, for all threads; return what it was."""
    return builder.atomic_rmw("add", pointer(builder, address, INT64), INT64(1), "seq_cst")


@operation(types.int64, types.int64)
def read(builder: Any, address: Any) -> Any:
    """An integer, and after it what was written before it."""
    return builder.load_atomic(pointer(builder, address, INT64), "seq_cst", 8)


@operation(types.void, types.int64, types.int64)
def write(builder: Any, address: Any, value: Any) -> Any:
    """Write an integer after all that was written before."""
    builder.store_atomic(value, pointer(builder, address, INT64), "seq_cst", 8)


@operation(types.int64, types.int64, types.int64)
def set_bits(builder: Any, address: Any, bits: Any) -> Any:
    """Set bits of an integer; return what it was."""
    return builder.atomic_rmw("or", pointer(builder, address, INT64), bits, "seq_cst")


@operation(types.void, types.int64, types.int64)
def enter(builder: Any, entry: Any, argument: Any) -> Any:
    """Call a kernel by its address."""
    kind = ir.FunctionType(ir.VoidType(), [INT64])
    builder.call(builder.inttoptr(entry, kind.as_pointer()), [argument])


@operation(types.void, types.int64)
def sleep(builder: Any, semaphore: Any) -> Any:
    """Wait in the operating system until somebody posts the semaphore."""
    call(builder, "sem_wait", [pointer(builder, semaphore, ir.IntType(8))], INT)


@operation(types.int64, types.int64)
def spin(builder: Any, num_spins: Any) -> Any:
    """Wait for a moment; return how often in a row one has done so."""
    with builder.if_else(builder.icmp_signed("<", num_spins, INT64(NUM_SPINS))) as (few, many):
        with few:
            if _HAS_PAUSE:
                call(builder, "llvm.x86.sse2.pause", [], ir.VoidType())
        with many:
            call(builder, "sched_yield", [], INT)
    return builder.add(num_spins, INT64(1))
