"""Settings of a verifier: read once, from the environment and the command line, then frozen."""

import re
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from rpc.keys import Keys, check_keys, read_keys
from rpc.settings import ServerSettings
from rpc.tls import TlsFiles

MIN_CONTEXT = 8  # tokens


class VerifierConfig(ServerSettings):
    """Environment variables carry the prefix LOOKAHEAD_VERIFIER_."""

    model_config = SettingsConfigDict(env_prefix="LOOKAHEAD_VERIFIER_")

    model: str = Field(description="Local path or hub id of the target model")
    listen: str = Field(
        default="127.0.0.1:50051", description="Address to serve on, host:port or unix:path"
    )
    drafter: str = Field(
        default="",
        description="Addresses of drafters, comma-separated; embedded: a replica of their memory "
        "in this process, by the drafter's settings; empty: none",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="Where the model runs; auto: a GPU if there is one"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="Type of the weights; auto: the checkpoint's own on a GPU, float32 on a CPU",
    )
    attention: Literal["auto", "positional", "tiled", "masked"] = Field(
        default="auto",
        description="How attention and products are computed; auto: each row by its positions, on "
        "a CPU (positional) and, where Triton's kernels are found right, on a GPU (tiled); masked: "
        "by torch's kernels",
    )
    graphs: Literal["auto", "captured", "off"] = Field(
        default="auto",
        description="How a GPU's passes are launched, with attention tiled; auto: the layers "
        "compiled and whole passes captured as CUDA graphs, or only captured, or neither, "
        "whichever is found right first; captured: without the compiler; off: neither",
    )
    threads: int = Field(default=0, ge=0, description="CPU threads of the model; 0: all cores")
    max_sequences: int = Field(default=8, ge=1, le=512, description="Sequences that run at once")
    kv_memory: str = Field(
        default="auto",
        description="Memory of the KV cache, such as 8GiB; "
        "auto: 85 % of what is free on a GPU, half on a CPU",
    )
    max_waiting: int = Field(default=256, ge=0, description="Requests that may wait for a slot")
    max_unread_tokens: int = Field(
        default=256,
        ge=1,
        description="Tokens that a client has not read after which its stream is paused",
    )
    max_context: int = Field(
        default=0,
        ge=0,
        description="Longest prompt plus output, in tokens; "
        "0: what the model was made for, or as much of it as kv_memory has room for",
    )
    max_tokens_beyond_context: Literal["clamp", "refuse"] = Field(
        default="clamp",
        description="What happens to a request for more tokens than the context has room for",
    )
    max_nodes: int = Field(
        default=24, ge=0, le=64, description="Most drafted nodes per sequence and step"
    )
    max_depth: int = Field(default=24, ge=1, le=64, description="Most drafted tokens on one path")
    prefill_rows: int = Field(
        default=0,
        ge=0,
        description="Most prompt tokens read in a step beside decoding; 0: by device",
    )
    generation_config: Literal["auto", "none"] = Field(
        default="auto",
        description="Sampling that requests may take for their defaults; "
        "auto: what the model's generation_config.json recommends",
    )
    keys_file: Path | None = Field(
        default=None,
        description="File with a JSON object of API keys, or sha256: and their hash, and the "
        "namespaces that requests stay in; *: any, for a gateway; read again when it changes",
    )
    require_bitwise: bool = Field(
        default=False,
        description="Refuse to serve a model whose rows are not bitwise independent",
    )
    tool_format: Literal[
        "auto",
        "hermes",
        "qwen-xml",
        "glm",
        "llama-json",
        "pythonic",
        "mistral-list",
        "mistral",
        "deepseek",
        "deepseek-r1",
        "phi",
        "harmony",
        "gemma",
        "kimi",
    ] = Field(
        default="auto",
        description="How the model writes calls of tools; auto: as its chat template does",
    )
    reasoning_format: Literal["auto", "none", "think", "harmony", "gemma", "mistral"] = Field(
        default="auto",
        description="How the model marks what it thinks; auto: as its chat template does",
    )
    watchdog_s: float = Field(
        default=300.0,
        gt=0,
        description="Seconds after which a pass counts as stuck, and the process ends",
    )
    drain_s: float = Field(
        default=30.0, ge=0, description="Seconds running streams get at shutdown"
    )
    drafter_ca: str = Field(
        default="", description="PEM file: who signed the drafters' certificates"
    )
    stream_shape: str = Field(
        default="step",
        description="Which tokens share a message: step: those of a step; tokens:16: as many each; "
        "ms:100: those of an interval. The last two hide steps from who sees only sizes and times",
    )
    write_timeout_s: float = Field(
        default=60.0, gt=0, description="Seconds a client has to read on"
    )

    @field_validator("stream_shape")
    @classmethod
    def _check_stream_shape(cls, value: str) -> str:
        parse_shape(value)
        return value

    @field_validator("max_context")
    @classmethod
    def _check_max_context(cls, value: int) -> int:
        if 0 < value < MIN_CONTEXT:
            raise ValueError(f"expected 0 or at least {MIN_CONTEXT}, not {value}")
        return value

    @field_validator("keys_file")
    @classmethod
    def _check_keys_file(cls, file: Path | None) -> Path | None:
        if file is not None:
            _checked_keys(file)
        return file

    def keys(self) -> Keys | None:
        """Whom the verifier serves; None: everybody."""
        file = self.keys_file
        return None if file is None else Keys(partial(_checked_keys, file), file)

    @field_validator("kv_memory")
    @classmethod
    def _check_kv_memory(cls, value: str) -> str:
        if value != "auto":
            parse_size(value)
        return value

    def drafter_tls(self) -> TlsFiles | None:
        """Return what to call drafters with; None: plaintext."""
        if not self.drafter_ca:
            return None
        return TlsFiles(ca=self.drafter_ca, cert=self.tls_cert, key=self.tls_key)


def _checked_keys(file: Path) -> dict[str, str]:
    keys = read_keys(file)
    check_keys(keys, allows_anybody=True)
    return keys


UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?")


def parse_size(text: str) -> int:
    """Bytes of "800000000", "750M", "1.5GiB" and the like; units are powers of 1024."""
    match = SIZE.fullmatch(text.strip())
    size = int(float(match[1]) * UNITS[match[2]]) if match else 0
    if size <= 0:
        raise ValueError(f"expected a size such as 8GiB, not {text!r}")
    return size


MAX_SHAPE = {"tokens": 256, "ms": 2000}


def parse_shape(text: str) -> tuple[int, float]:
    """Tokens of a message and seconds between messages, of "tokens:16" or "ms:100"; 0: any."""
    if text == "step":
        return 0, 0.0
    kind, _, size = text.partition(":")
    if kind not in MAX_SHAPE or not size.isdecimal():
        raise ValueError(f"expected step, tokens:N or ms:N, not {text!r}")
    if not 1 <= int(size) <= MAX_SHAPE[kind]:
        raise ValueError(f"expected {kind}:1 to {kind}:{MAX_SHAPE[kind]}, not {text!r}")
    return (int(size), 0.0) if kind == "tokens" else (0, int(size) / 1000)
