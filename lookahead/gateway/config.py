"""Settings of a gateway: read once, from the environment and the command line, then frozen."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from rpc.keys import check_keys, read_keys
from rpc.settings import Option, ServiceSettings
from rpc.tls import TlsFiles, server_files


class GatewayConfig(ServiceSettings):
    """Environment variables carry the prefix LOOKAHEAD_GATEWAY_."""

    model_config = SettingsConfigDict(env_prefix="LOOKAHEAD_GATEWAY_")

    listen: str = Field(default="127.0.0.1:8000", description="Address to serve on, host:port")
    verifier: str = Field(
        default="127.0.0.1:50051",
        description="Addresses of verifiers, comma-separated; requests take turns, "
        "and go round one that is down, full or about to stop",
    )
    verifier_ca: str = Field(
        default="", description="PEM file: who signs the verifiers' certificates"
    )
    # No option: other users of a machine can read command lines.
    verifier_key: Annotated[SecretStr, Option("")] = Field(
        default=SecretStr(""),
        description="API key for verifiers that ask for one; theirs may speak for anybody (*)",
    )
    tls_cert: str = Field(
        default="", description="PEM file: our certificate, if verifiers ask for one"
    )
    tls_key: str = Field(default="", description="PEM file: its key")
    https_cert: str = Field(
        default="",
        description="PEM file: certificate to serve HTTPS with, read again when it changes; "
        "empty: plain HTTP",
    )
    https_key: str = Field(default="", description="PEM file: its key")
    # Nor this one.
    keys: Annotated[dict[str, str], Option("")] = Field(
        default_factory=dict, repr=False, description="JSON object: API key to its namespace"
    )
    keys_file: Path | None = Field(
        default=None,
        description="File with a JSON object of API keys, or sha256: and their hash, and "
        "namespaces; read again when it changes",
    )
    draft_trees: bool | None = Field(
        default=None, description="Whether requests may see drafts; unset: only without keys"
    )
    unknown_fields: Literal["refuse", "ignore"] = Field(
        default="refuse",
        description="What happens to unknown fields of requests; "
        "those that cannot change the words are ignored anyway",
    )
    allowed_origins: str = Field(
        default="",
        description="Origins whose pages may use the API, comma-separated, such as "
        "https://chat.example.org; *: all; empty: none",
    )
    keep_alive_s: float = Field(
        default=10.0,
        gt=0,
        description="Seconds without an event after which a stream says it lives",
    )
    event_block_bytes: int = Field(
        default=0,
        ge=0,
        le=4096,
        description="Events of a stream are filled up to whole blocks of so many bytes, "
        "which hides their sizes from who sees encrypted traffic; 0: not",
    )
    max_body_bytes: int = Field(default=4 << 20, ge=1024, description="Longest request body")
    max_choices: int = Field(
        default=16, ge=1, le=128, description="Most prompts times n of a request"
    )
    max_requests: int = Field(default=512, ge=1, description="Requests answered at once")
    max_connections: int = Field(
        default=1024, ge=1, description="Connections at once; the limit of descriptors may be lower"
    )
    max_connections_per_address: int = Field(
        default=512,
        ge=1,
        description="Connections of one address; a proxy before the gateway is one address",
    )
    header_timeout_s: float = Field(
        default=15.0, gt=0, description="Seconds for the head of a request to arrive"
    )
    # Longer than clients keep idle connections, so that none is closed as it is used again.
    idle_timeout_s: int = Field(
        default=75, ge=1, description="Seconds a connection may wait for its next request"
    )
    connect_timeout_s: float = Field(
        default=0.7, gt=0, description="Seconds to reach a verifier, all addresses together"
    )
    request_timeout_s: float = Field(default=600.0, gt=0, description="Seconds for a whole answer")
    read_timeout_s: float = Field(
        default=30.0, gt=0, description="Seconds for the body of a request to arrive"
    )
    write_timeout_s: float = Field(
        default=30.0, gt=0, description="Seconds a client has to read on"
    )
    drain_s: int = Field(default=30, ge=0, description="Seconds running requests get at shutdown")

    @field_validator("listen")
    @classmethod
    def _check_listen(cls, listen: str) -> str:
        host, _, port = listen.rpartition(":")
        if not host or not port.isdecimal() or int(port) > 65535:
            raise ValueError("want host:port")
        return listen

    @field_validator("verifier")
    @classmethod
    def _check_verifier(cls, verifier: str) -> str:
        if not all(address.strip() for address in verifier.split(",")):
            raise ValueError("want one or more addresses with commas between them")
        return verifier

    @model_validator(mode="after")
    def _check_keys(self) -> Self:
        if self.keys and self.keys_file:
            raise ValueError("set keys or keys_file, not both")
        self.checked_keys()
        if self.tls_cert and not self.verifier_ca:
            raise ValueError("tls_cert needs verifier_ca")
        self.tls()
        if bool(self.https_cert) != bool(self.https_key):
            raise ValueError("https_cert and https_key need each other")
        return self

    @property
    def verifiers(self) -> tuple[str, ...]:
        """The addresses, one by one."""
        return tuple(address.strip() for address in self.verifier.split(","))

    @property
    def origins(self) -> tuple[str, ...]:
        """The origins allowed, one by one."""
        return tuple(filter(None, (origin.strip() for origin in self.allowed_origins.split(","))))

    @property
    def allows_draft_trees(self) -> bool:
        """Whether a request may see drafts, which hold text of others in its namespace."""
        return not self.api_keys() if self.draft_trees is None else self.draft_trees

    def tls(self) -> TlsFiles | None:
        """How to talk to verifiers; None: plaintext."""
        files = TlsFiles(ca=self.verifier_ca, cert=self.tls_cert, key=self.tls_key)
        return files if self.verifier_ca else None

    def https(self) -> TlsFiles | None:
        """What the gateway itself serves with; None: plain HTTP."""
        return server_files(cert=self.https_cert, key=self.https_key, ca="")

    def limits(self) -> dict[str, int]:
        """What the gateway itself takes at most, by the names that docs/operations.md explains."""
        return {
            "body_bytes": self.max_body_bytes,
            "answers": self.max_choices,
            "requests": self.max_requests,
            "http_connections": self.max_connections,
            "http_connections_per_address": self.max_connections_per_address,
        }

    def checked_keys(self) -> dict[str, str]:
        """Namespace of each key; ValueError where one cannot be used."""
        keys = self.api_keys()
        check_keys(keys)
        return keys

    def api_keys(self) -> dict[str, str]:
        """Namespace of each key; empty where none is needed."""
        return self.keys if self.keys_file is None else read_keys(self.keys_file)
