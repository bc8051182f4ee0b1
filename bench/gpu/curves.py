"""How long a pass takes by its rows, its streams and the kind of attention, beside a stock step."""

from collections.abc import Iterator

from bench.gpu.lab import Lab, Served
from bench.gpu.passes import cached, drafted, step, words
from bench.gpu.report import Note, Result
from bench.gpu.timing import Times, measure_times
from bench.serving.figures import Figure
from bench.serving.generate import Generate
from verifier.model.packing import KernelError

SECTION = "curves"
GENERATED = 12  # tokens
MAX_GROWTH = 1.1  # of a step from one row to GROWN_ROWS
GROWN_ROWS = 64


def curves(lab: Lab) -> Iterator[Result]:
    """The kind that is served first, so that the others may be cut off by the time limit."""
    served = lab.served()
    yield from _curve(lab, served, is_served=True)
    for attention in lab.attentions:
        if attention == served.model.attention:
            continue
        try:
            other = lab.served(attention=attention)
        except KernelError as error:
            yield Note(SECTION, f"{attention} attention", str(error))
            continue
        yield from _curve(lab, other, is_served=False)
    yield _stock(lab)


def _curve(lab: Lab, served: Served, *, is_served: bool) -> Iterator[Result]:
    attention = served.model.attention
    by_rows: dict[int, Times] = {}
    for rows in lab.sizes.row_counts:
        by_rows[rows] = _times(lab, served, 1, rows)
        yield from _figures(f"{attention}: 1 stream, {rows} rows", by_rows[rows])
    growth = by_rows[GROWN_ROWS].wall_ms / by_rows[1].wall_ms
    bar = MAX_GROWTH if is_served else None
    yield Figure(SECTION, f"{attention}: T({GROWN_ROWS}) / T(1)", growth, at_most=bar)
    reading_ms = 1e3 * served.read_bytes / lab.bandwidth
    ratio = by_rows[1].wall_ms / reading_ms
    yield Figure(SECTION, f"{attention}: T(1) / time to read the weights", ratio)
    for streams, rows in lab.sizes.stream_rows:
        times = _times(lab, served, streams, rows)
        yield from _figures(f"{attention}: {streams} streams, {rows} rows of each", times)


def _times(lab: Lab, served: Served, streams: int, rows: int) -> Times:
    with cached(served.model, streams, lab.sizes.context) as slots:
        segments = [drafted(served.model, slot, rows, slot) for slot in slots]
        run = lambda: step(served.model, segments)  # noqa: E731
        return measure_times(run, lab.device, rounds=lab.sizes.rounds)


def _figures(name: str, times: Times) -> Iterator[Result]:
    yield Figure(SECTION, f"{name}, on the device", times.device_ms, "ms")
    yield Figure(SECTION, f"{name}, until the host has it", times.wall_ms, "ms")


def _stock(lab: Lab) -> Result:
    """One token of transformers' own generate."""
    prompt = words(lab.served().model, lab.sizes.context, 1)
    generate = Generate(lab.stock(lab.shape))
    seconds = min(generate.step_s([prompt], GENERATED) for _ in range(2))
    return Figure(SECTION, "a step of transformers' generate", 1e3 * seconds, "ms")
