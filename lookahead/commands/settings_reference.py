"""Write docs/settings.md: `python -m lookahead.commands.settings_reference`."""

from collections.abc import Iterator
from pathlib import Path

from drafter.config import DrafterConfig
from lookahead.gateway.config import GatewayConfig
from rpc.settings import ServiceSettings, Setting, settings_of
from verifier.config import VerifierConfig

TARGET = Path(__file__).parents[2] / "docs" / "settings.md"
INTRODUCTION = """# Settings

Each setting of a service is an environment variable and an option. For example, the verifier's
`max_sequences` is the variable `LOOKAHEAD_VERIFIER_MAX_SEQUENCES`. It is also the option
`--max-sequences` of `lookahead verifier` and of `python -m verifier`. An option wins over its
variable. `lookahead serve` takes the verifier's options, apart from addresses and certificates.

This page is written by `make settings`.
"""
SERVICES: tuple[tuple[str, type[ServiceSettings], str], ...] = (
    ("Verifier", VerifierConfig, "`lookahead verifier`, or `python -m verifier`"),
    ("Drafter", DrafterConfig, "`lookahead drafter`, or `python -m drafter`"),
    ("Gateway", GatewayConfig, "`lookahead gateway`, or `python -m lookahead.gateway`"),
)


def reference() -> str:
    """Return the whole page."""
    lines = [INTRODUCTION]
    for title, kind, command in SERVICES:
        lines += _section(title, kind, command)
    return "\n".join(lines).rstrip() + "\n"


def _section(title: str, kind: type[ServiceSettings], command: str) -> Iterator[str]:
    prefix = kind.model_config.get("env_prefix")
    yield from (f"## {title}", "", f"Started by {command}. Variables begin with `{prefix}`.", "")
    yield from ("| setting | value | default | |", "|---|---|---|---|")
    for setting in settings_of(kind):
        yield _row(setting)
    yield ""


def _row(setting: Setting) -> str:
    value = ", ".join(f"`{each}`" for each in setting.choices) or setting.form.lower()
    if setting.limits:
        value += f", {setting.limits}"
    default = f"`{setting.default}`" if setting.default else "required" * setting.is_required
    cells = (f"`{setting.name}`", value, default, f"{setting.help}.{_exception(setting)}")
    return f"| {' | '.join(cell.replace('|', ' or ') for cell in cells)} |".replace("  ", " ")


def _exception(setting: Setting) -> str:
    """Say how the option is called where it is not called as the setting."""
    if not setting.option:
        return " Has no option."
    is_usual = setting.option == f"--{setting.name.replace('_', '-')}"
    return "" if is_usual else f" Its option is `{setting.option}`."


if __name__ == "__main__":
    TARGET.write_text(reference())
