"""Options that pass a service's settings on to it, made from the service's own table of them.

The table is imported when a command runs or explains itself: other commands do not wait for it.
"""

import inspect
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from rpc.settings import Setting

PANEL = "Settings; each has an environment variable, too"


class SettingsCommand(TyperCommand):
    """A command with options of its own and one for each setting of a service.

    The command finds those that were given as environment variables in its context's `obj`. One
    that was not given leaves the setting to its variable, or to its default.
    """

    table: ClassVar[str]  # module:class
    without: ClassVar[frozenset[str]] = frozenset()  # what the command decides itself

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the command's own parameters, then the settings."""
        return [*super().get_params(ctx), *_parameters(self.table, self.without)]

    def invoke(self, ctx: Any) -> Any:
        """Hand the settings over and run the command."""
        given = {s.variable: ctx.params.pop(s.name) for s in _settings(self.table, self.without)}
        ctx.obj = {name: str(value) for name, value in given.items() if value is not None}
        return super().invoke(ctx)


class DrafterCommand(SettingsCommand):
    """Takes every setting of a drafter."""

    table = "drafter.config:DrafterConfig"


class GatewayCommand(SettingsCommand):
    """Takes every setting of a gateway."""

    table = "lookahead.gateway.config:GatewayConfig"


class VerifierCommand(SettingsCommand):
    """Takes every setting of a verifier but its model, which may be the demo's."""

    table = "verifier.config:VerifierConfig"
    without = frozenset({"model"})


class StackCommand(SettingsCommand):
    """Takes the settings of a verifier that a stack on one machine leaves open."""

    table = VerifierCommand.table
    without = VerifierCommand.without | {
        *("listen", "drafter", "metrics_listen", "drain_s"),
        *("tls_cert", "tls_key", "tls_ca", "drafter_ca"),
    }


@cache
def _settings(table: str, without: frozenset[str]) -> "list[Setting]":
    from rpc.settings import settings_of

    module, _, name = table.partition(":")
    kind = getattr(import_module(module), name)
    return [s for s in settings_of(kind) if s.option and s.name not in without]


@cache
def _parameters(table: str, without: frozenset[str]) -> list[Any]:
    """Return what typer makes of a function with the settings as its arguments."""

    def given(**settings: object) -> None: ...

    arguments = [_argument(setting) for setting in _settings(table, without)]
    given.__signature__ = inspect.Signature(arguments)  # type: ignore[attr-defined]
    given.__annotations__ = {each.name: each.annotation for each in arguments}
    app = typer.Typer(add_completion=False)
    app.command()(given)
    return list(typer.main.get_command(app).params)


def _argument(setting: "Setting") -> inspect.Parameter:
    """Return the setting as an argument that may be left out; the service checks its limits."""
    option = setting.option
    flags = [f"{option}/--no-{option[2:]}"] if setting.kind is bool else [option]
    kind = setting.kind if setting.choices or setting.kind in (bool, int, float) else str
    information = typer.Option(*flags, help=setting.about, rich_help_panel=PANEL)
    return inspect.Parameter(
        setting.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, information],
    )
