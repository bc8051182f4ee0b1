"""How the trie grows: insert, propose and memory from 1e5 to 1e7 tokens: `python -m bench.trie`."""

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter_ns

import numpy as np

from bench.corpus import MAX_DOCUMENT_LEN, Document, documents
from bench.plots import plot_trie
from drafter.drafting.sessions import DraftSessions

NAMESPACE = "scale"
SIZES = (100_000, 1_000_000, 10_000_000)
BUDGETS = (16, 64)
# Documents that are drafted for and never learned, and the part of each that is its prompt.
NUM_PROBES = 40
PROMPT_LEN = 512
STEPS_PER_PROBE = 50
MAX_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Size:
    """What one size of memory costs."""

    num_tokens: int
    insert_us_per_token: float
    bytes_per_token: float
    resident_bytes_per_token: float
    propose_us: dict[int, tuple[float, float]]  # by budget: p50, p99

    def line(self) -> str:
        """Give one row of the printed table."""
        times = "".join(f"{p50:10.1f}{p99:8.1f}" for p50, p99 in self.propose_us.values())
        return (
            f"{self.num_tokens:>12,}{self.insert_us_per_token:11.3f}{self.bytes_per_token:9.1f}"
            f"{self.resident_bytes_per_token:9.1f}{times}"
        )


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line, measure every size in one growing memory, report."""
    options = _parser().parse_args(argv)
    sizes = measure(options.tokens or SIZES)
    if options.json:
        print(json.dumps([asdict(size) for size in sizes], indent=1))
    else:
        head = "".join(f"  p50 @ {budget}  (p99)" for budget in BUDGETS)
        print(f"{'tokens':>12}  µs/insert  B/token  RSS/tok{head}, µs")
        print("\n".join(size.line() for size in sizes))
    if options.plot is not None:
        plot_trie(options.plot, [(each.num_tokens, each.propose_us) for each in sizes])


def measure(sizes: Sequence[int]) -> list[Size]:
    """Grow one namespace through the sizes, drafting for unseen documents at each."""
    ordered = sorted(sizes)
    texts = documents(ordered[-1] + NUM_PROBES * MAX_DOCUMENT_LEN)
    needed = PROMPT_LEN + STEPS_PER_PROBE + 1
    probes = [text for text in texts[::-1] if len(text) >= needed][:NUM_PROBES]
    held_out = {id(probe) for probe in probes}
    learnable = iter([text for text in texts if id(text) not in held_out])
    sessions = DraftSessions(max_namespace_bytes=MAX_BYTES)
    _propose_us(sessions, probes[:2], BUDGETS[0])
    resident = _resident_bytes()
    learned = insert_ns = 0
    found: list[Size] = []
    for size in ordered:
        while learned < size:
            run = next(learnable)[: size - learned]
            started = perf_counter_ns()
            sessions.learn(NAMESPACE, run)
            insert_ns += perf_counter_ns() - started
            learned += len(run)
        found.append(
            Size(
                num_tokens=learned,
                insert_us_per_token=insert_ns / 1e3 / learned,
                bytes_per_token=sessions.stats().num_bytes / learned,
                resident_bytes_per_token=(_resident_bytes() - resident) / learned,
                propose_us={each: _propose_us(sessions, probes, each) for each in BUDGETS},
            )
        )
    return found


def _propose_us(
    sessions: DraftSessions, probes: Sequence[Document], budget: int
) -> tuple[float, float]:
    """Draft along unseen documents, one token a step; return p50 and p99."""
    times = []
    for number, probe in enumerate(probes):
        sessions.open(number, space=NAMESPACE, token_ids=probe[:PROMPT_LEN])
        for position in range(PROMPT_LEN, PROMPT_LEN + STEPS_PER_PROBE):
            sessions.observe(number, probe[position : position + 1])
            started = perf_counter_ns()
            sessions.propose(number, budget)
            times.append(perf_counter_ns() - started)
        sessions.drop(number)
    return float(np.percentile(times, 50)) / 1e3, float(np.percentile(times, 99)) / 1e3


def _resident_bytes() -> int:
    """Read how much memory the process holds, from Linux; 0 elsewhere."""
    status = Path("/proc/self/statm")
    if not status.exists():
        return 0
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.trie", description=__doc__)
    parser.add_argument("--tokens", type=int, action="append", help="sizes; default 1e5, 1e6, 1e7")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--plot", type=Path, help="write propose time against learned tokens")
    return parser


if __name__ == "__main__":
    main()
