"""Settings of a drafter: read once, from the environment and the command line, then frozen."""

from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from rpc.tls import TlsFiles, server_files


class DrafterConfig(BaseSettings):
    """Environment variables carry the prefix LOOKAHEAD_DRAFTER_."""

    model_config = SettingsConfigDict(env_prefix="LOOKAHEAD_DRAFTER_", frozen=True)

    listen: str = Field("127.0.0.1:50052", min_length=1, description="Address to serve on")
    # Secret because it may carry a password; empty: learn into this process's memory only.
    redis_url: SecretStr = Field(SecretStr(""), description="Redis that holds the shared memory")
    max_namespace_bytes: int = Field(
        64 << 20, ge=1 << 20, description="Memory of one namespace's trie"
    )
    max_memory_bytes: int = Field(1 << 30, ge=1 << 20, description="Memory of all tries together")
    max_outbox_bytes: int = Field(
        64 << 20, ge=1 << 16, description="Runs that may wait for Redis; the oldest are dropped"
    )
    namespace_ttl_s: int | None = Field(
        None, ge=1, description="Seconds after which an unused namespace is forgotten in Redis"
    )
    max_live_tokens: int = Field(
        8 << 20, ge=1 << 20, description="Tokens of all open sequences together"
    )
    grace_s: float = Field(0.5, ge=0, description="Seconds running calls get at shutdown")
    tls_cert: str = Field("", description="PEM file: certificate to serve with; empty: plaintext")
    tls_key: str = Field("", description="PEM file: its key")
    tls_ca: str = Field("", description="PEM file: who signs those admitted; empty: anybody")
    metrics_listen: str = Field("", description="Address to answer scrapes on; empty: none")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["text", "json"] = "text"

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        self.tls()
        return self

    def tls(self) -> TlsFiles | None:
        """Return what to serve with; None: plaintext."""
        return server_files(cert=self.tls_cert, key=self.tls_key, ca=self.tls_ca)
