"""The command line: `lookahead serve`, then `generate`, `chat`, `check` in another terminal."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import track

from lookahead.client.client import DEFAULT_ADDRESS, Client
from lookahead.client.errors import LookaheadError, Unavailable
from lookahead.client.requests import CONSTRAINTS, GenerateParams
from lookahead.client.results import GenerationResult
from lookahead.commands import check as checks
from lookahead.commands import compare as comparisons
from lookahead.commands.chat import Chat, RawChat, converse
from lookahead.commands.demo import run_demo
from lookahead.commands.services import services
from lookahead.doctor.command import doctor
from lookahead.loadtest.command import loadtest
from lookahead.stack.demo_models import ModelUnavailable
from lookahead.stack.stack import StackError
from lookahead.terminal import options
from lookahead.terminal.display import legend, print_runs, shows_colours, summary
from lookahead.terminal.samples import Sample, load_samples, read_sample, read_text, read_tools
from lookahead.terminal.tls import Ca, Cert, Key, api_key, choose_tls, tls
from lookahead.top.command import top
from lookahead.trie.command import trie

app = typer.Typer(
    name="lookahead",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(services)
app.add_typer(loadtest)
app.add_typer(top)
app.add_typer(doctor)
app.add_typer(trie)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(version("lookahead-serving"))
        raise typer.Exit


@app.callback()
def lookahead(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
    tls_ca: Ca = None,
    tls_cert: Cert = None,
    tls_key: Key = None,
) -> None:
    """Serve a language model faster, with exactly the words it would have said anyway."""
    choose_tls(tls_ca, tls_cert, tls_key)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; failures that a user can act on are one line, not a traceback."""
    try:
        app(arguments)
    except Unavailable as error:
        # One that says when to come back is there.
        hint = "Is a server running there? `lookahead serve` starts one."
        _fail(str(error) if error.retry_after_s else f"{error}\n{hint}")
    except (LookaheadError, StackError, ModelUnavailable, OSError) as error:
        _fail(str(error))


@app.command()
def generate(
    prompt: Annotated[str | None, typer.Argument(help="Text to continue; or use -f.")] = None,
    file: options.File = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Decode plainly too and print both speeds.")
    ] = False,
    as_json: options.AsJson = False,
    address: options.Address = DEFAULT_ADDRESS,
    max_tokens: options.MaxTokens = None,
    stop: options.Stop = None,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    top_k: options.TopK = None,
    min_p: options.MinP = None,
    repetition_penalty: options.RepetitionPenalty = None,
    seed: options.Seed = None,
    json_schema: options.JsonSchema = None,
    regex: options.Regex = None,
    choice: options.Choice = None,
    speculation: options.Speculation = None,
    namespace: options.Namespace = None,
    learn: options.Learn = None,
    prediction: options.Prediction = None,
) -> None:
    """Continue a text; what was drafted and accepted is coloured by its source."""
    params = _given(
        max_tokens=max_tokens,
        stop=stop,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
        json_schema=None if json_schema is None else read_text(json_schema),
        regex=regex,
        choices=choice,
        speculation=speculation,
        namespace=namespace,
        learn=learn,
        prediction=None if prediction is None else read_text(prediction),
    )
    sample = Sample("prompt", _read_prompt(prompt, file))
    with Client(address, tls=tls(), key=api_key()) as client:
        if compare:
            _compare(client, sample, params, as_json=as_json)
        else:
            _generate(client, sample, params, as_json=as_json)


@app.command()
def chat(
    system: Annotated[str, typer.Option(help="First message: how to behave.")] = "",
    raw: Annotated[
        bool, typer.Option("--raw", help="Plain continuation, for models without a template.")
    ] = False,
    address: options.Address = DEFAULT_ADDRESS,
    max_tokens: options.MaxTokens = None,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    seed: options.Seed = None,
    namespace: options.Namespace = None,
    tools: options.Tools = None,
) -> None:
    """Talk to the model, with its own chat template."""
    if raw and tools is not None:
        raise typer.BadParameter("--tools needs a chat template, so not --raw")
    params = _given(
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        namespace=namespace,
        tools=None if tools is None else read_tools(tools),
    )
    with Client(address, tls=tls(), key=api_key()) as client:
        model = client.model()
        if not raw and not model.has_chat_template:
            _fail(f"{model.model} has no chat template. `lookahead chat --raw` continues text.")
        kind = RawChat if raw else Chat
        converse(Console(), kind(client, params, system=system))


@app.command()
def check(
    files: Annotated[
        list[Path] | None,
        typer.Argument(exists=True, dir_okay=False, help="Prompts of your own, one file each."),
    ] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", "-n", help="For each prompt.")] = 96,
    seed: Annotated[int, typer.Option(help="Seed of the sampled runs.")] = 1,
    as_json: options.AsJson = False,
    address: options.Address = DEFAULT_ADDRESS,
) -> None:
    """Prove that drafting changes no token and no bit; exit status 1 if it does."""
    samples = [read_sample(path) for path in files] if files else load_samples()
    findings: list[checks.Finding] = []
    with Client(address, tls=tls(), key=api_key()) as client:
        model = client.model()  # fails before the progress bar if nobody is there
        for sample in track(samples, "Checking", console=Console(stderr=True), transient=True):
            findings += checks.check_sample(client, sample, max_tokens=max_tokens, seed=seed)
    num_different = sum(not finding.is_identical for finding in findings)
    if as_json:
        _print_json([checks.as_json(finding) for finding in findings])
    else:
        table, verdict = checks.findings_table(findings), checks.verdict(findings, model)
        Console().print(table, verdict, sep="\n")
    raise typer.Exit(1 if num_different else 0)


@app.command()
def demo(model: options.Model = "demo") -> None:
    """Start a stack, answer a few prompts in colour, print the speeds, stop."""
    run_demo(Console(), model)


def _generate(client: Client, sample: Sample, params: GenerateParams, *, as_json: bool) -> None:
    console, notes = Console(), Console(stderr=True)
    params["draft_trees"] = shows_colours(console)
    with client.generate(sample.text, **params) as stream:
        if as_json:
            _print_json(_as_json(stream.wait()))
            return
        print_runs(console, stream.events())
        if shows_colours(console):
            is_constrained = any(params.get(name) for name in CONSTRAINTS)
            notes.print(legend(is_constrained=is_constrained), highlight=False)
        notes.print(summary(stream.result), style="dim", highlight=False)


def _compare(client: Client, sample: Sample, params: GenerateParams, *, as_json: bool) -> None:
    if as_json:
        _print_json(comparisons.as_json(comparisons.compare(client, sample, params)))
        return
    console = Console()
    comparison = comparisons.compare(client, sample, params, lambda runs: print_runs(console, runs))
    console.print("", comparisons.comparison_table([comparison]), sep="\n")


def _as_json(result: GenerationResult) -> dict[str, object]:
    speeds = {
        "tokens_per_second": result.tokens_per_second,
        "tokens_per_step": result.tokens_per_step,
        "gain": result.timings.gain,
    }
    return {**asdict(result), **speeds}


def _given(**values: Any) -> GenerateParams:
    """Keep what the user set; the server has the defaults."""
    # mypy cannot follow keys through a filter; the client checks each name and value.
    return {name: value for name, value in values.items() if value is not None}  # type: ignore[return-value]


def _read_prompt(prompt: str | None, file: Path | None) -> str:
    if prompt is not None and file is not None:
        raise typer.BadParameter("give a prompt or a file, not both")
    if prompt is not None:
        return prompt
    if file is not None and str(file) != "-":
        return read_text(file)
    if file is None and sys.stdin.isatty():
        raise typer.BadParameter("give a prompt, -f FILE, or text on standard input")
    return sys.stdin.read()


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _fail(message: str) -> None:
    Console(stderr=True).print(f"[red bold]Error:[/] {escape(message)}", highlight=False)
    sys.exit(1)
