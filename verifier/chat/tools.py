"""Tools that an answer may call, and whether it must."""

import enum
import json
from dataclasses import dataclass
from typing import Any


class Choice(enum.IntEnum):
    """Whether an answer calls a tool; numbered as in the contract."""

    AUTO = 1
    NONE = 2
    REQUIRED = 3


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call."""

    name: str
    description: str = ""
    parameters: str = ""  # a JSON schema; empty: it takes no arguments

    @property
    def schema(self) -> dict[str, Any]:
        """What arguments must satisfy: `parameters`, closed where it does not say how it is open.

        JSON Schema lets an object have any other property unless it is told not to; functions
        do not.
        """
        schema: dict[str, Any] = json.loads(self.parameters or '{"properties": {}}')
        schema = {"type": "object"} | schema
        is_said = {"additionalProperties", "patternProperties", "unevaluatedProperties"} & set(
            schema
        )
        if "properties" in schema and not is_said:
            schema["additionalProperties"] = False
        return schema

    def declaration(self) -> dict[str, Any]:
        """The tool as chat templates expect it."""
        function: dict[str, Any] = {"name": self.name}
        if self.description:
            function["description"] = self.description
        function["parameters"] = json.loads(
            self.parameters or '{"type": "object", "properties": {}}'
        )
        return {"type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The tools of a request, and what its answer does with them."""

    tools: tuple[Tool, ...] = ()
    choice: Choice = Choice.AUTO
    name: str = ""  # the tool that must be called, if one is named
    is_single: bool = False  # at most one call

    @property
    def callable(self) -> tuple[Tool, ...]:
        """Those that the answer may call."""
        if self.choice is Choice.NONE:
            return ()
        return tuple(tool for tool in self.tools if self.name in ("", tool.name))
