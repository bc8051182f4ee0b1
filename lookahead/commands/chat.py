"""A conversation in the terminal, with the model's own chat template or, raw, without one.

Where the model calls a tool, the user says what came of it.
"""

from rich.console import Console
from rich.markup import escape

from lookahead.client.client import Client
from lookahead.client.errors import InvalidRequest
from lookahead.client.requests import GenerateParams
from lookahead.client.results import ChatMessage, GenerationResult, ToolCall
from lookahead.client.stream import Stream
from lookahead.terminal.display import legend, print_calls, print_run, shows_colours, summary

HELP = "[dim]/reset forgets the conversation, /exit (or Ctrl-D) leaves, Ctrl-C stops an answer[/]"
RAW_HELP = "[dim]no chat template: what you type is continued, word for word[/]"


class Chat:
    """The state of one conversation."""

    def __init__(self, client: Client, params: GenerateParams, *, system: str = "") -> None:
        self._client = client
        # The trees say which words came from where.
        self._params: GenerateParams = {**params, "draft_trees": True}
        self._system = system
        self._messages: list[ChatMessage] = []
        self.reset()

    @property
    def has_tools(self) -> bool:
        """Whether answers may call tools."""
        return "tools" in self._params

    def reset(self) -> None:
        """Forget the conversation."""
        self._messages = [{"role": "system", "content": self._system}] if self._system else []

    def ask(self, text: str) -> Stream:
        """Start the answer to `text`."""
        self._messages.append({"role": "user", "content": text})
        return self.go_on()

    def go_on(self) -> Stream:
        """Start the answer to what was said last."""
        return self._client.generate(messages=self._messages, **self._params)

    def keep(self, answer: str) -> None:
        """Add an answer, or what there is of it, to the conversation."""
        self._messages.append({"role": "assistant", "content": answer})

    def keep_calls(self, result: GenerationResult, results: list[str]) -> None:
        """Say instead of the last answer that it called tools, and what came of each call."""
        self._messages[-1] = {
            "role": "assistant",
            "content": result.content,
            "tool_calls": result.tool_calls,
        }
        for call, said in zip(result.tool_calls, results, strict=True):
            self._messages.append({"role": "tool", "content": said, "tool_call_id": call.id})


class RawChat(Chat):
    """Plain completion for a model without a chat template: the text so far is the prompt."""

    def reset(self) -> None:
        self._text = self._system

    def ask(self, text: str) -> Stream:
        self._text += text
        return self._client.generate(self._text, **self._params)

    def keep(self, answer: str) -> None:
        self._text += answer


def converse(console: Console, chat: Chat) -> None:
    """Ask and answer until the user leaves."""
    console.print(RAW_HELP if isinstance(chat, RawChat) else HELP)
    if shows_colours(console):
        console.print(legend(is_constrained=chat.has_tools))
    while True:
        try:
            text = console.input("[bold cyan]>[/] ")
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if text.strip() == "/exit":
            return
        if text.strip() == "/reset":
            chat.reset()
        elif text.strip():
            _answer_or_explain(console, chat, text)


def _answer_or_explain(console: Console, chat: Chat, text: str) -> None:
    try:
        answer(console, chat, text)
    except InvalidRequest as error:  # most likely too long by now; the user can go on
        console.print(f"[red]{escape(str(error))}[/]\n[dim]/reset forgets the conversation[/]")


def answer(console: Console, chat: Chat, text: str) -> GenerationResult | None:
    """Print one answer, and what follows on its calls of tools; None if it was interrupted."""
    result = _print_answer(console, chat, chat.ask(text))
    while result is not None and result.tool_calls:
        try:
            results = [_result_of(console, call) for call in result.tool_calls]
        except (EOFError, KeyboardInterrupt):
            console.print()
            return result
        chat.keep_calls(result, results)
        result = _print_answer(console, chat, chat.go_on())
    return result


def _result_of(console: Console, call: ToolCall) -> str:
    print_calls(console, [call])
    return console.input(f"[bold cyan]{escape(call.name)} returns>[/] ")


def _print_answer(console: Console, chat: Chat, answering: Stream) -> GenerationResult | None:
    said = ""
    with answering as stream:
        try:
            for run in stream.events():
                said += run.text
                print_run(console, run)
        except KeyboardInterrupt:
            console.print("\n[dim]stopped[/]")
            return None
        finally:
            chat.keep(said)
    console.out("")
    console.print(f"[dim]{summary(stream.result)}[/]", highlight=False)
    return stream.result
