"""The systems compared, the ways in which each decodes, and how each way is started."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench.serving.peers.environment import LLAMA, VLLM, peers_directory
from bench.serving.peers.ours import Ours
from bench.serving.peers.protocol import Answer, Load
from bench.serving.peers.weights import Weights
from bench.serving.peers.worker import Worker, worker
from lookahead import Client

ROOT = Path(__file__).parents[3]
KV_GIB = 1  # of vLLM: eight streams of 2,048 tokens of a small model


class System(Protocol):
    """A server that is loaded and waits."""

    def answer(self, prompts: list[list[int]], max_tokens: int) -> list[Answer]:
        """Answer all prompts at once."""

    def read(self, prompts: list[list[int]]) -> None:
        """Cache the prompts' rows."""

    def forget(self) -> None:
        """Drop what is remembered of earlier answers."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way in which a system decodes. One that remembers is measured cold and warm."""

    system: str
    method: str
    remembers: bool = False

    @property
    def name(self) -> str:
        """What it goes by in tables."""
        return f"{self.system}, {self.method}"


OURS_PLAIN, OURS_DRAFTED = Way("ours", "plain"), Way("ours", "drafted", remembers=True)
VLLM_PLAIN, VLLM_NGRAM = Way("vLLM", "plain"), Way("vLLM", "n-gram")
VLLM_SUFFIX = Way("vLLM", "suffix", remembers=True)
LLAMA_PLAIN = Way("llama.cpp", "plain")
LLAMA_NGRAM = Way("llama.cpp", "ngram-mod", remembers=True)
PEERS = {
    VLLM_PLAIN: VLLM,
    VLLM_NGRAM: VLLM,
    VLLM_SUFFIX: VLLM,
    LLAMA_PLAIN: LLAMA,
    LLAMA_NGRAM: LLAMA,
}


def start_ours(client: Client) -> dict[Way, System]:
    """Both of our ways, on one running stack."""
    return {OURS_PLAIN: Ours(client, "off"), OURS_DRAFTED: Ours(client, "auto")}


@contextmanager
def start_peer(way: Way, python: Path, weights: Weights, dtype: str) -> Iterator[Worker]:
    """Run a peer that has loaded the weights."""
    is_llama = PEERS[way] is LLAMA
    model = weights.gguf(dtype) if is_llama else weights.checkpoint
    module = "bench.serving.peers." + ("llama_worker" if is_llama else "vllm_worker")
    log_path = peers_directory() / f"{way.system}-{way.method}-{dtype}.log"
    cores = sorted(os.sched_getaffinity(0))
    environ = _environ(os.environ, cores)
    with worker([str(python), "-m", module], environ=environ, log_path=log_path) as running:
        running.load(Load(str(model), dtype, way.method, len(cores)))
        yield running


def _environ(environ: Mapping[str, str], cores: list[int]) -> dict[str, str]:
    """What a worker needs to find this file's package, and vLLM to stay within this machine."""
    return {
        **environ,
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(peers_directory() / "inductor-cache"),
        "VLLM_CACHE_ROOT": str(peers_directory() / "vllm-cache"),
        "VLLM_CPU_KVCACHE_SPACE": str(KV_GIB),
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        # What it saves compiled ahead it cannot load again; inductor's own cache works.
        "VLLM_USE_AOT_COMPILE": "0",
    }
