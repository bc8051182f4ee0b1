"""A service's settings: its class is the one table that command line, environment and docs read."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, Self, TypeVar, get_args, get_origin

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from rpc.telemetry import LogFormat
from rpc.tls import TlsFiles, server_files

LIMITS = (("ge", "at least"), ("gt", "above"), ("le", "at most"))
# What values of a type look like.
FORMS = {bool: "true|false", int: "INTEGER", float: "NUMBER", Path: "FILE", dict: "JSON"}
Kind = TypeVar("Kind", bound="ServiceSettings")


class ServiceSettings(BaseSettings):
    """What every service can be told. Read once, then frozen."""

    model_config = SettingsConfigDict(frozen=True)

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Least level that is logged"
    )
    log_format: LogFormat = Field(
        default="text", description="key=value pairs, or one JSON object a line"
    )


class ServerSettings(ServiceSettings):
    """What every gRPC server can be told."""

    tls_cert: str = Field(
        default="", description="PEM file: certificate to serve with; empty: plaintext"
    )
    tls_key: str = Field(default="", description="PEM file: its key")
    tls_ca: str = Field(
        default="", description="PEM file: who signs those admitted; empty: anybody"
    )
    metrics_listen: str = Field(default="", description="Address to answer scrapes on; empty: none")

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        self.tls()
        return self

    def tls(self) -> TlsFiles | None:
        """Return what to serve with; None: plaintext."""
        return server_files(cert=self.tls_cert, key=self.tls_key, ca=self.tls_ca)


@dataclass(frozen=True, slots=True)
class Option:
    """Marks a field whose option is not called after it; empty: it has none."""

    name: str


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table."""

    name: str
    option: str  # empty: only the environment sets it
    variable: str
    kind: Any  # its type, without None
    limits: str
    default: str  # as one would write it; empty: nothing
    is_required: bool
    help: str
    is_secret: bool

    @property
    def choices(self) -> tuple[str, ...]:
        """Values of a setting that has few."""
        return get_args(self.kind) if get_origin(self.kind) is Literal else ()

    @property
    def about(self) -> str:
        """What a help text says."""
        return f"{self.help} (default: {self.default})" if self.default else self.help

    @property
    def form(self) -> str:
        """What a value looks like."""
        return "|".join(self.choices) or FORMS.get(get_origin(self.kind) or self.kind, "TEXT")


def settings_of(kind: type[ServiceSettings]) -> Iterator[Setting]:
    """Yield the rows: the service's own first, then what all have."""
    own = kind.__annotations__
    for name in sorted(kind.model_fields, key=lambda name: name not in own):
        yield _setting(name, kind.model_fields[name], kind.model_config.get("env_prefix", ""))


def read_settings(
    kind: type[Kind], program: str, about: str | None, arguments: Sequence[str] | None = None
) -> Kind:
    """Read the command line of `python -m program`, over the environment.

    A wrong setting ends the process with one line that names it.
    """
    parser = _parser(kind, program, about)
    given = {k: v for k, v in vars(parser.parse_args(arguments)).items() if v is not None}
    try:
        return kind(**given)
    except (ValidationError, SettingsError) as error:
        _refuse(parser, problems(kind, error))


def problems(kind: type[ServiceSettings], error: ValidationError | SettingsError) -> str:
    """Name each wrong setting, how it is set, what it may be and, unless secret, what it is."""
    settings = {setting.name: setting for setting in settings_of(kind)}
    if isinstance(error, SettingsError):  # no JSON where it must be
        named = [s for s in settings.values() if f'"{s.name}"' in str(error)]
        return "; ".join(f"{s.name}: not a JSON object{_ways(s)}" for s in named) or str(error)
    lines = []
    for found in error.errors(include_url=False):
        setting = settings.get(str(found["loc"][0])) if found["loc"] else None
        message = found["msg"].removeprefix("Value error, ")
        lines.append(_problem(setting, message, found["input"]) if setting else message)
    return "; ".join(lines)


def _problem(setting: Setting, message: str, given: object) -> str:
    # Nothing but text is quoted: what is missing has no value, and an object may hold keys.
    is_told = setting.is_secret or not isinstance(given, str) or repr(given) in message
    value = "" if is_told else f", not {given!r}"
    return f"{setting.name}: {message}{value}{_ways(setting)}"


def _ways(setting: Setting) -> str:
    ways = (setting.option, setting.variable)
    return f" ({' or '.join(way for way in ways if way)})"


def _refuse(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    # Not by parser.error: the usage, of some thirty options, would bury the message.
    parser.exit(2, f"{parser.prog}: error: {message}\n")


def _parser(
    kind: type[ServiceSettings], program: str, about: str | None
) -> argparse.ArgumentParser:
    prefix = kind.model_config.get("env_prefix", "")
    parser = argparse.ArgumentParser(
        prog=f"python -m {program}",
        allow_abbrev=False,  # or --keys would be taken for --keys-file, and quoted
        description=about,
        epilog=f"Without an option its environment variable counts, {prefix} and its name.",
    )
    for setting in settings_of(kind):
        if setting.option:
            parser.add_argument(
                setting.option,
                dest=setting.name,
                metavar=setting.form,
                help=setting.about.replace("%", "%%"),
            )
    return parser


def _setting(name: str, field: FieldInfo, prefix: str) -> Setting:
    kind = field.annotation
    if type(None) in get_args(kind):
        kind = next(each for each in get_args(kind) if each is not type(None))
    named = next((mark.name for mark in field.metadata if isinstance(mark, Option)), name)
    return Setting(
        name=name,
        option=f"--{named.replace('_', '-')}" if named else "",
        variable=f"{prefix}{name}".upper(),
        kind=kind,
        limits=_limits(field),
        default=_default(field),
        is_required=field.is_required(),
        help=field.description or "",
        is_secret=kind is SecretStr or not field.repr,
    )


def _limits(field: FieldInfo) -> str:
    found = [
        f"{words} {getattr(mark, attribute):.15g}"
        for mark in field.metadata
        for attribute, words in LIMITS
        if hasattr(mark, attribute)
    ]
    return ", ".join(found)


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if field.is_required():
        return ""
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if not value and not isinstance(value, int | float):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.15g}" if isinstance(value, float) else str(value)
