"""A peer's worker without a model, run as a process: prompts that begin with these ids break it."""

import os
import sys

from bench.serving.peers.protocol import Answer, Job, Load, serve

RAISE, DIE = 1, 2


class FakePeer:
    """Says how often it was asked since it last forgot."""

    def load(self, load: Load) -> None:
        if load.dtype == "float8":
            raise ValueError(f"no such type: {load.dtype}")
        sys.stdout.write(f"loading {load.model}\n")  # as libraries do
        self._num_jobs = 0

    def answer(self, job: Job) -> list[Answer]:
        if job.prompts[0][0] == RAISE:
            raise RuntimeError("out of pages")
        if job.prompts[0][0] == DIE:
            sys.stderr.write("terminate called\n\n")
            sys.stderr.flush()
            os._exit(3)
        self._num_jobs += 1
        text = f"job {self._num_jobs}"
        return [Answer(text, job.max_tokens, 0.5, 1.5, 1) for _ in job.prompts]

    def forget(self) -> None:
        self._num_jobs = 0


if __name__ == "__main__":
    serve(FakePeer())
