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
        help="Prompts: text files, one each, or JSONL. Default: our own.",
    ),
]
Url = Annotated[
    str, typer.Option(help="Ask an OpenAI-compatible server instead: http://HOST:PORT/v1.")
]
ApiKey = Annotated[str, typer.Option(envvar="OPENAI_API_KEY", help="For --url.")]
Model = Annotated[str, typer.Option(help="For --url; default: the first one listed.")]
OwnPrompts = Annotated[Workload, typer.Option(help="Of our own prompts.", rich_help_panel=WHAT)]
Chat = Annotated[
    bool, typer.Option("--chat", help="Send texts as chat messages.", rich_help_panel=WHAT)
]
MaxTokens = Annotated[int, typer.Option("--max-tokens", "-n", min=1, rich_help_panel=WHAT)]
Temperature = Annotated[float, typer.Option("--temperature", "-t", min=0, rich_help_panel=WHAT)]
Seed = Annotated[
    int, typer.Option(min=0, help="Of the first prompt; then one more.", rich_help_panel=WHAT)
]
Concurrency = Annotated[
    str, typer.Option("--concurrency", "-c", help="Requests at once.", rich_help_panel=HOW)
]
Requests = Annotated[
    int | None,
    typer.Option(min=1, help="In each burst; default: each prompt once.", rich_help_panel=HOW),
]
Rounds = Annotated[int, typer.Option(min=1, help="Bursts of each kind.", rich_help_panel=HOW)]
Speculation = Annotated[
    str, typer.Option(help="auto, chain or tree, beside off.", rich_help_panel=HOW)
]
Warm = Annotated[
    bool,
    typer.Option(help="Measure with a memory that knows the answers, too.", rich_help_panel=HOW),
]
Plot = Annotated[Path | None, typer.Option(help="Write a picture; needs matplotlib.")]
