"""What `lookahead loadtest` may be told, in the order of its help."""

from pathlib import Path
from typing import Annotated

import typer

from lookahead.loadtest.prompts import Workload

WHAT = "What to ask"
HOW = "How to ask"

Files = Annotated[
    list[Path] | None,
    typer.Argument(
        exists=True,
        dir_okay=False,
        help="Prompts: one text file each, or JSONL files. Default: built-in prompts.",
    ),
]
Url = Annotated[
    str, typer.Option(help="Test an OpenAI-compatible server instead: http://HOST:PORT/v1.")
]
ApiKey = Annotated[str, typer.Option(envvar="OPENAI_API_KEY", help="API key for --url.")]
Model = Annotated[str, typer.Option(help="Model for --url; default: the first one listed.")]
OwnPrompts = Annotated[
    Workload, typer.Option(help="Kind of built-in prompts.", rich_help_panel=WHAT)
]
Chat = Annotated[
    bool, typer.Option("--chat", help="Send texts as chat messages.", rich_help_panel=WHAT)
]
MaxTokens = Annotated[int, typer.Option("--max-tokens", "-n", min=1, rich_help_panel=WHAT)]
Temperature = Annotated[float, typer.Option("--temperature", "-t", min=0, rich_help_panel=WHAT)]
Seed = Annotated[
    int,
    typer.Option(
        min=0, help="Seed of the first prompt; each next prompt adds one.", rich_help_panel=WHAT
    ),
]
Concurrency = Annotated[
    str, typer.Option("--concurrency", "-c", help="Requests at once.", rich_help_panel=HOW)
]
Requests = Annotated[
    int | None,
    typer.Option(min=1, help="Requests per burst; default: each prompt once.", rich_help_panel=HOW),
]
Rounds = Annotated[int, typer.Option(min=1, help="Bursts per mode.", rich_help_panel=HOW)]
Speculation = Annotated[
    str, typer.Option(help="Shape of the drafts: auto, chain or tree.", rich_help_panel=HOW)
]
Warm = Annotated[
    bool,
    typer.Option(help="Measure also with a memory that knows the answers.", rich_help_panel=HOW),
]
Plot = Annotated[Path | None, typer.Option(help="Write a picture; needs matplotlib.")]
