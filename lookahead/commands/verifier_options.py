"""The verifier's settings as options of the commands that start one, each written down once.

An option that is not given leaves the setting to its environment variable, or to its default.
"""

from typing import Annotated, Any

import typer

PANEL = "The verifier"


def _option(text: str) -> typer.models.OptionInfo:
    found: typer.models.OptionInfo = typer.Option(help=text, rich_help_panel=PANEL)
    return found


Device = Annotated[str | None, _option("auto, cpu or cuda.")]
Dtype = Annotated[str | None, _option("auto, float32, bfloat16 or float16.")]
Attention = Annotated[str | None, _option("auto, sdpa, batched or eager; see docs/models.md.")]
Compile = Annotated[
    bool | None, _option("Compile the layers for passes of few rows; see docs/models.md.")
]
Exactness = Annotated[str | None, _option("guarded, exact or fast; see docs/design.md.")]
Threads = Annotated[int | None, _option("CPU threads of the model; 0 takes all cores.")]
MaxSequences = Annotated[int | None, _option("Sequences that run at once.")]
MaxContext = Annotated[int | None, _option("Longest prompt plus output, in tokens.")]
MaxNodes = Annotated[int | None, _option("Most drafted nodes a sequence and step.")]
KVMemory = Annotated[str | None, _option("The KV cache's: auto, or a size such as 8GiB.")]
PrefillRows = Annotated[int | None, _option("Prompt rows beside decoding; 0: by device.")]

NAMES = (
    "device",
    "dtype",
    "attention",
    "compile",
    "exactness",
    "threads",
    "max_sequences",
    "max_context",
    "max_nodes",
    "kv_memory",
    "prefill_rows",
)


def chosen(arguments: dict[str, Any]) -> dict[str, str]:
    """`settings` of those of a command's arguments that are options of this file."""
    return settings(**{name: arguments[name] for name in NAMES})


def settings(**given: object) -> dict[str, str]:
    """Environment variables of the options that were given, by the settings' names."""
    return {
        f"LOOKAHEAD_VERIFIER_{name.upper()}": str(value)
        for name, value in given.items()
        if value is not None
    }
