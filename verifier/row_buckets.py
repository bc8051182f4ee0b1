"""The row counts that compiled passes come in. Policy without tensors.

Compiled code, and a CUDA graph even more so, is made for one shape. So passes of few rows are
padded up to the next of a few counts; longer ones, which read prompts, run uncompiled.
"""

ROW_BUCKETS = (1, 2, 4, 8, 16, 32, 64)


def padded_rows(num_rows: int) -> int | None:
    """Rows of the pass that `num_rows` are padded to; None where it is not compiled."""
    return next((bucket for bucket in ROW_BUCKETS if bucket >= num_rows), None)
