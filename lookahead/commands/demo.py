"""`make demo`: a short live session on a real model, from nothing to a table of speeds.

A model with a chat template is asked things, another one continues texts. Drafts come only from the
prompts, and from the forms that answers must have: the memory starts empty and learns nothing.
"""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.markup import escape
from rich.rule import Rule

from lookahead.client.client import Client
from lookahead.client.requests import GenerateParams
from lookahead.commands.compare import Comparison, compare, comparison_table
from lookahead.commands.services import require_extras
from lookahead.stack.model_cache import resolve_model
from lookahead.stack.serve import shown_stack
from lookahead.stack.stack import StackConfig
from lookahead.terminal.display import legend, print_calls, print_prompt, print_runs, signature
from lookahead.terminal.samples import Sample, load_chats, load_samples

MAX_TOKENS = 128
NUM_PROMPT_LINES = 3
PARAMS: GenerateParams = {"max_tokens": MAX_TOKENS, "temperature": 0.0}
# The first forward passes of a process are slower than all later ones, whatever they compute.
WARM_UP: GenerateParams = {"max_tokens": 8, "learn": "none"}


def run_demo(console: Console, model: str) -> list[Comparison]:
    """Start a stack of its own, run the prompts, print the table, stop."""
    require_extras("drafter", "verifier")
    path = resolve_model(model, console)
    with TemporaryDirectory(prefix="lookahead-") as directory:
        config = StackConfig.apart(path, Path(directory), environ=os.environ)
        with shown_stack(console, config), Client(config.verifier_address) as client:
            return run_session(console, client)


def run_session(console: Console, client: Client) -> list[Comparison]:
    """Answer the prompts on a running server and print what it took."""
    samples = load_chats() if client.model().has_chat_template else load_samples()
    client.generate(**{**samples[0].request, **WARM_UP}).wait()
    console.print()
    console.print(legend(is_constrained=any(sample.params for sample in samples)))
    comparisons = [_show(console, client, sample) for sample in samples]
    console.print()
    console.print(Rule("plain decoding beside lookahead", style="dim"))
    console.print(comparison_table(comparisons))
    return comparisons


def _show(console: Console, client: Client, sample: Sample) -> Comparison:
    """Print the end of the prompt, then the answer as it comes."""
    console.print()
    console.print(Rule(escape(sample.name), align="left", style="dim"))
    _print_asked(console, sample)
    comparison = compare(client, sample, PARAMS, lambda runs: print_runs(console, runs))
    print_calls(console, comparison.drafted.tool_calls)
    return comparison


def _print_asked(console: Console, sample: Sample) -> None:
    lines = sample.asked.splitlines(keepends=True)
    if len(lines) > NUM_PROMPT_LINES:
        words = len(sample.asked.split())
        console.print(f"[dim]… a document of {words} words …[/]", highlight=False)
    print_prompt(console, "".join(lines[-NUM_PROMPT_LINES:]))
    for tool in sample.params.get("tools", ()):
        print_prompt(console, f"\n(tool: {signature(tool)})")
    if sample.messages:
        console.out("\n")
