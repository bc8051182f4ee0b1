"""Settings of a verifier: read once, from the environment and the command line, then frozen."""

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class VerifierConfig(BaseSettings):
    """Environment variables carry the prefix LOOKAHEAD_VERIFIER_."""

    model_config = SettingsConfigDict(env_prefix="LOOKAHEAD_VERIFIER_", frozen=True)

    model: str = Field(description="Local path, hub id or .gguf file of the target model")
    listen: str = Field("127.0.0.1:50051", description="Address to serve on")
    drafter: str = Field("", description="Addresses of drafters, comma-separated; empty for none")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    threads: int = Field(0, ge=0, description="CPU threads of the model; 0 takes all cores")
    max_sequences: int = Field(8, ge=1, le=512, description="Sequences that run at once")
    max_waiting: int = Field(256, ge=0, description="Requests that may wait for a slot")
    max_context: int = Field(4096, ge=8, description="Longest prompt plus output, in tokens")
    max_nodes: int = Field(24, ge=0, le=64, description="Most drafted nodes a sequence and step")
    max_depth: int = Field(24, ge=1, le=64, description="Most drafted tokens on one path")
    prefill_rows: int = Field(0, ge=0, description="Prompt rows beside decoding; 0: by device")
    exactness: Literal["guarded", "exact", "fast"] = "guarded"
    drain_s: float = Field(30.0, ge=0, description="Seconds running streams get at shutdown")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
