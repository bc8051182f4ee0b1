"""Plays recorded requests to a draft source: the true context at every step, no model needed."""

from collections.abc import Callable, Iterable
from time import perf_counter_ns

import numpy as np

from bench.replay.draft import Draft, DraftSource, checked, walk
from bench.replay.recording import Recording
from bench.replay.traces import Request

Factory = Callable[[], DraftSource]


def play_online(
    requests: Iterable[Request], factory: Factory, budget: int, threshold: float = 0.0
) -> Recording:
    """Replay with one memory that learns over the requests in order."""
    recording = Recording()
    source = factory()
    for request in requests:
        _play(request, source, recording, budget, threshold)
    recording.memory_bytes = source.num_bytes()
    recording.memory_tokens = source.num_learned_tokens()
    return recording


def play_cold(
    requests: Iterable[Request], factory: Factory, budget: int, threshold: float = 0.0
) -> Recording:
    """Replay with an empty memory for every request."""
    recording = Recording()
    for request in requests:
        _play(request, factory(), recording, budget, threshold)
    return recording


def _play(
    request: Request, source: DraftSource, recording: Recording, budget: int, threshold: float
) -> None:
    started = perf_counter_ns()
    source.open(request.prompt)
    # The first output token comes from the prompt's own forward pass and costs no step.
    source.observe(request.output[:1], 0)
    recording.update_ns += perf_counter_ns() - started
    position = 1
    while position < len(request.output):
        position += _step(request.output[position:], source, recording, budget, threshold)
    started = perf_counter_ns()
    source.close()
    recording.update_ns += perf_counter_ns() - started
    recording.updated_tokens += len(request.prompt) + len(request.output)
    recording.num_requests += 1


def _step(
    truth: list[int], source: DraftSource, recording: Recording, budget: int, threshold: float
) -> int:
    started = perf_counter_ns()
    draft = source.propose(budget)
    recording.propose_ns.append(perf_counter_ns() - started)
    token_ids, parents = checked(draft, budget)
    cut = _cut(draft, threshold)
    accepted = walk(token_ids[:cut], parents[:cut], truth)
    emitted = truth[: len(accepted) + 1]
    started = perf_counter_ns()
    source.observe(emitted, cut)
    recording.observe_ns.append(perf_counter_ns() - started)
    recording.update_ns += recording.observe_ns[-1]
    recording.observed_tokens += len(emitted)
    recording.drafted.append(cut)
    recording.num_accepted += len(accepted)
    recording.num_tokens += len(emitted)
    if draft.probabilities is not None:
        recording.add_nodes(np.asarray(draft.probabilities, dtype=np.float64)[:cut], accepted)
    return len(emitted)


def _cut(draft: Draft, threshold: float) -> int:
    """Count the leading nodes worth verifying: those at or above the threshold."""
    if draft.probabilities is None:
        return len(draft.token_ids)
    return int(np.count_nonzero(np.asarray(draft.probabilities) >= threshold))
