"""Fits the calibration's prior to recordings: `python -m bench.replay.fit_prior --traces DIR`.

Every workload is replayed twice, with and without memory between requests, its requests mixed with
those of all others, so that the prior belongs to none. `--leave-out` judges it on one it never saw.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.replay.draft import walk
from bench.replay.traces import Request, load, workloads
from drafter.drafting.calibration import (
    PRIOR_PATH,
    Calibration,
    as_prior,
    default_prior,
    packed,
    set_logits,
)
from drafter.drafting.sessions import DraftSessions

BUDGETS = (16, 64)
PASSES = 2
NAMESPACE = "fit"


@dataclass(slots=True)
class Stream:
    """One workload's requests at one budget, remembering earlier ones or not."""

    requests: list[Request]
    budget: int
    remembers: bool
    sessions: DraftSessions
    next_request: int = 0

    @property
    def num_left(self) -> int:
        return len(self.requests) - self.next_request


def fit(requests: list[list[Request]], seed: int) -> Calibration:
    """Return what all workloads together teach, as experience a namespace may start with."""
    calibration = Calibration(default_prior())
    chooser = np.random.default_rng(seed)
    for turn in range(PASSES):
        total, number = np.zeros(len(calibration.model)), 0
        streams = [
            Stream(workload, BUDGETS[(turn + remembers) % 2], remembers, _sessions(calibration))
            for workload in requests
            for remembers in (False, True)
        ]
        while left := [stream for stream in streams if stream.num_left]:
            # In proportion to what is left, so that all end together.
            shares = np.array([stream.num_left for stream in left], np.float64)
            _play_next(left[chooser.choice(len(left), p=shares / shares.sum())], calibration)
            total += calibration.model
            number += 1
    # The mean of the last pass, or the requests that came last would weigh most.
    calibration.model = as_prior((total / number).astype(np.float32))
    set_logits(calibration.model)
    return calibration


def _sessions(calibration: Calibration) -> DraftSessions:
    """Begin with a copy of this calibration: the shipped one may be missing, or be another."""
    return DraftSessions(prior=calibration.model)


def _play_next(stream: Stream, calibration: Calibration) -> None:
    request = stream.requests[stream.next_request]
    stream.next_request += 1
    if not stream.remembers:
        stream.sessions = _sessions(calibration)
    stream.sessions.memory(NAMESPACE).calibration = calibration
    play(request, stream.sessions, stream.budget)


def play(request: Request, sessions: DraftSessions, budget: int) -> int:
    """Replay one request; return the steps it took."""
    sessions.open(1, space=NAMESPACE, token_ids=request.prompt)
    sessions.observe(1, request.output[:1])
    position, num_steps = 1, 0
    while position < len(request.output):
        tree = sessions.propose(1, budget)
        truth = request.output[position : position + budget + 1]
        accepted = walk(tree.token_ids.tolist(), tree.parents.tolist(), truth)
        emitted = truth[: len(accepted) + 1]
        sessions.observe(1, emitted)
        position += len(emitted)
        num_steps += 1
    sessions.close(1)
    return num_steps


def judge(requests: list[Request], calibration: Calibration, budget: int, remembers: bool) -> float:
    """Return the tokens per step on requests replayed with a copy of this prior."""
    sessions = _sessions(calibration)
    num_steps = num_tokens = 0
    for index, request in enumerate(requests):
        if index == 0 or not remembers:
            sessions = _sessions(calibration)
        num_steps += play(request, sessions, budget)
        num_tokens += len(request.output) - 1
    return num_tokens / num_steps


def main(argv: list[str] | None = None) -> None:
    """Fit over all workloads and write the prior, or leave one out and judge on it."""
    parser = argparse.ArgumentParser(prog="python -m bench.replay.fit_prior", description=__doc__)
    parser.add_argument("--traces", type=Path, required=True, help="directory of *.jsonl.gz")
    parser.add_argument("--out", type=Path, default=PRIOR_PATH)
    parser.add_argument("--leave-out", action="append", default=[], help="judge on this workload")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    loaded = {name: load(options.traces, name) for name in workloads(options.traces)}
    for name in options.leave_out:
        _judge_without(name, loaded, options.seed)
    if not options.leave_out:
        fitted = fit(list(loaded.values()), options.seed)
        np.savez_compressed(options.out, model=packed(fitted.model))
        print(f"{options.out}: {options.out.stat().st_size} bytes")


def _judge_without(name: str, loaded: dict[str, list[Request]], seed: int) -> None:
    """Print how the workload fares with no prior, without its own part in it, and with all."""
    none = Calibration(default_prior())
    others = fit([requests for other, requests in loaded.items() if other != name], seed)
    shipped = Calibration()
    for remembers in (False, True):
        for budget in BUDGETS:
            rates = [
                judge(loaded[name], calibration, budget, remembers)
                for calibration in (none, others, shipped)
            ]
            mode = "online" if remembers else "cold"
            print(f"{name} {mode} {budget}: none, left out, shipped", *np.round(rates, 3))


if __name__ == "__main__":
    main()
