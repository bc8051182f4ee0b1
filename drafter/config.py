"""Settings of a drafter: read once, from the environment and the command line, then frozen."""

from typing import Annotated

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from rpc.settings import Option, ServerSettings


class DrafterConfig(ServerSettings):
    """Environment variables carry the prefix LOOKAHEAD_DRAFTER_."""

    model_config = SettingsConfigDict(env_prefix="LOOKAHEAD_DRAFTER_")

    listen: str = Field(
        default="127.0.0.1:50052",
        min_length=1,
        description="Address to serve on, host:port or unix:path",
    )
    # Secret because it may carry a password.
    redis_url: Annotated[SecretStr, Option("redis")] = Field(
        default=SecretStr(""),
        description="URL of the Redis that holds the shared memory; empty: none",
    )
    max_namespace_bytes: int = Field(
        default=64 << 20, ge=1 << 20, description="Memory of one namespace's trie"
    )
    max_memory_bytes: int = Field(
        default=1 << 30,
        ge=1 << 20,
        description="Memory of all namespaces together; idle ones are put away to keep to it",
    )
    max_namespaces: int = Field(
        default=4096,
        ge=1,
        description="Namespaces in memory at once; idle ones come back from Redis when asked for",
    )
    max_tenant_bytes: int | None = Field(
        default=None,
        ge=1 << 20,
        description="Memory of one tenant's namespaces; a tenant is what stands before the first "
        "dot of a namespace's name; unset: half of max_memory_bytes",
    )
    max_tenant_namespaces: int | None = Field(
        default=None,
        ge=1,
        description="Namespaces of one tenant in memory at once; unset: half of max_namespaces",
    )
    max_tenant_learn_tokens: int | None = Field(
        default=None,
        ge=1,
        description="Tokens that one tenant may have learned in a minute; unset: no limit",
    )
    max_outbox_bytes: int = Field(
        default=64 << 20,
        ge=1 << 16,
        description="Runs that may wait for Redis; the oldest are dropped",
    )
    namespace_ttl_s: int | None = Field(
        default=None,
        ge=1,
        description="Seconds after which Redis forgets an unused namespace; unset: never",
    )
    max_live_tokens: int = Field(
        default=8 << 20, ge=1 << 20, description="Tokens of all open sequences together"
    )
    grace_s: float = Field(default=0.5, ge=0, description="Seconds running calls get at shutdown")
