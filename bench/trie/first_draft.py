"""How long a new drafter takes to its first draft: `python -m bench.trie.first_draft`.

Real processes, from their start to the reply, first with an empty kernel cache, then with a full
one. Until its kernels are compiled a drafter runs them by the interpreter.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import grpc

from protos import drafter_pb2 as pb
from protos.drafter_pb2_grpc import DrafterServiceStub

PROMPT_LEN = 512
MAX_NODES = 64
TIMEOUT_S = 120.0
_STOP_S = 90.0
# By itself a channel waits a second after its first attempt, which finds no socket yet.
RETRY_SOON = [(f"grpc.{name}_reconnect_backoff_ms", 20) for name in ("initial", "min", "max")]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure both starts and print them."""
    parser = argparse.ArgumentParser(prog="python -m bench.trie.first_draft", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    options = parser.parse_args(argv)
    seconds = measure()
    if options.json:
        print(json.dumps(seconds))
        return
    for name, value in seconds.items():
        print(f"{name}: {value:.2f} s from process start to the first draft")


def measure() -> dict[str, float]:
    """Return the seconds to the first draft with a cold and with a warm kernel cache."""
    with TemporaryDirectory(prefix="la-") as directory:
        environ = {**os.environ, "NUMBA_CACHE_DIR": directory}
        # The first process compiles before it ends: the second finds the cache full.
        return {name: _first_draft(Path(directory), environ) for name in ("cold", "warm")}


def _first_draft(directory: Path, environ: dict[str, str]) -> float:
    """Start a drafter, draft once, stop it; return the seconds from its start to the draft."""
    address = f"unix:{directory}/drafter.sock"
    started = perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "drafter", "--listen", address, "--log-level", "ERROR"], env=environ
    )
    try:
        with grpc.insecure_channel(address, RETRY_SOON) as channel:
            grpc.channel_ready_future(channel).result(TIMEOUT_S)
            draft = _draft(channel)
            seconds = perf_counter() - started
    finally:
        process.terminate()
        process.wait(_STOP_S)
    if not draft.token_ids:
        raise RuntimeError("draft: a prompt that repeats itself was not drafted")
    return seconds


def _draft(channel: grpc.Channel) -> pb.Draft:
    prompt = [index % 64 for index in range(PROMPT_LEN)]
    opening = pb.Open(
        sequence_id=1,
        vocabulary="first",
        namespace="draft",
        token_ids=prompt,
        num_prompt_tokens=len(prompt),
        max_nodes=MAX_NODES,
    )
    replies = DrafterServiceStub(channel).Draft(
        iter([pb.DraftRequest(step=1, open=[opening])]), timeout=TIMEOUT_S
    )
    reply: pb.DraftResponse = next(iter(replies))
    return reply.drafts[0]


if __name__ == "__main__":
    main()
