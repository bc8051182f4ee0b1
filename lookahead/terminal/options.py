"""Options that several commands share, each defined once."""

from pathlib import Path
from typing import Annotated

import typer

SAMPLING = "Sampling"
FORM = "Form of the output"
DRAFTING = "Drafting: changes the speed, never the text"

Address = Annotated[
    str, typer.Option(envvar="LOOKAHEAD_ADDRESS", help="Verifier to talk to, host:port.")
]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        envvar="LOOKAHEAD_VERIFIER_MODEL",
        help="Local path, hub id or .gguf file; demo: SmolLM2-135M-Instruct.",
    ),
]
Redis = Annotated[
    str,
    typer.Option(help="Redis URL of the shared memory; none: only the drafter remembers."),
]
File = Annotated[
    Path | None,
    typer.Option(
        "--file",
        "-f",
        exists=True,
        dir_okay=False,
        allow_dash=True,
        help="Prompt file; - is standard input.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
MaxTokens = Annotated[int | None, typer.Option("--max-tokens", "-n", help="Most tokens to emit.")]
Stop = Annotated[list[str] | None, typer.Option(help="Stop at this text; may be repeated.")]
Temperature = Annotated[
    float | None,
    typer.Option("--temperature", "-t", help="0: greedy, the default.", rich_help_panel=SAMPLING),
]
TopP = Annotated[float | None, typer.Option(help="Top-p, 0 to 1.", rich_help_panel=SAMPLING)]
TopK = Annotated[int | None, typer.Option(help="Best k tokens only.", rich_help_panel=SAMPLING)]
MinP = Annotated[
    float | None,
    typer.Option(help="Lowest probability, as a share of the best.", rich_help_panel=SAMPLING),
]
RepetitionPenalty = Annotated[
    float | None, typer.Option(help="Above 1: less repetition.", rich_help_panel=SAMPLING)
]
Seed = Annotated[int | None, typer.Option(help="Same seed, same text.", rich_help_panel=SAMPLING)]
JsonSchema = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        dir_okay=False,
        help="File with a JSON schema of the output.",
        rich_help_panel=FORM,
    ),
]
Regex = Annotated[
    str | None, typer.Option(help="Regular expression of the whole output.", rich_help_panel=FORM)
]
Choice = Annotated[
    list[str] | None,
    typer.Option(help="An allowed output; repeat for each.", rich_help_panel=FORM),
]
Tools = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        dir_okay=False,
        help="JSON file with a list of tools, as OpenAI's API has them.",
        rich_help_panel=FORM,
    ),
]
Speculation = Annotated[
    str | None, typer.Option(help="auto, off, chain or tree.", rich_help_panel=DRAFTING)
]
Namespace = Annotated[
    str | None, typer.Option(help="Memory to draft from and learn into.", rich_help_panel=DRAFTING)
]
Learn = Annotated[
    str | None,
    typer.Option(help="What to remember: all, output or none.", rich_help_panel=DRAFTING),
]
Prediction = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        dir_okay=False,
        help="File with text expected in the output.",
        rich_help_panel=DRAFTING,
    ),
]
