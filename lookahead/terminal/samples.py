"""Prompts for the demo, the check and the live view: texts to continue, and conversations."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lookahead.client.errors import InvalidRequest
from lookahead.client.requests import GenerateParams
from lookahead.client.results import ChatMessage

DIRECTORY = Path(__file__).parent.parent / "prompts"


@dataclass(frozen=True, slots=True)
class Sample:
    """A text to continue or, where there are messages, a conversation to answer."""

    name: str  # in tables
    text: str = ""
    messages: tuple[ChatMessage, ...] = ()
    params: GenerateParams = field(default_factory=GenerateParams)  # tools, or a form

    @property
    def asked(self) -> str:
        """What the answer follows on, to be shown before it."""
        return str(self.messages[-1]["content"]) if self.messages else self.text

    @property
    def request(self) -> dict[str, Any]:
        """What `generate` takes for it."""
        given = {"messages": self.messages} if self.messages else {"prompt": self.text}
        return {**given, **self.params}


def load_samples() -> list[Sample]:
    """Return texts that hold a document, for any model."""
    return [
        Sample("document answers", _read("lighthouse")),
        Sample("minutes as list", _read("minutes")),
        Sample("table as JSON", _read("stock")),
    ]


def load_chats() -> list[Sample]:
    """Return conversations, for a model with a chat template: they are bodies of OpenAI's API."""
    chats = json.loads((DIRECTORY / "chats.json").read_text())
    return [
        Sample(chat["name"], messages=tuple(chat["messages"]), params=_params(chat))
        for chat in chats
    ]


def _params(chat: dict[str, Any]) -> GenerateParams:
    params: GenerateParams = {}
    if form := chat.get("response_format"):
        params["json_schema"] = form["json_schema"]["schema"]
    if tools := chat.get("tools"):
        params["tools"] = tools
        params["tool_choice"] = chat.get("tool_choice", "auto")
    return params


def load_openings() -> list[str]:
    """Return beginnings of stories that repeat nothing and so can hardly be drafted."""
    return _read("openings").splitlines()


def read_sample(path: Path) -> Sample:
    """Return the user's own prompt; InvalidRequest if it is not text."""
    return Sample(path.name, read_text(path))


def read_text(path: Path) -> str:
    """Return the text of a user's file; InvalidRequest if it is not text."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{path}: not UTF-8 text at byte {error.start}") from None


def read_tools(path: Path) -> list[dict[str, Any]]:
    """Return the tools in a user's file; InvalidRequest if it is no list of them."""
    try:
        tools = json.loads(read_text(path))
    except ValueError as error:
        raise InvalidRequest(f"{path}: not JSON: {error}") from None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise InvalidRequest(f"{path}: want a list of tools")
    return tools


def _read(name: str) -> str:
    return (DIRECTORY / f"{name}.txt").read_text()
