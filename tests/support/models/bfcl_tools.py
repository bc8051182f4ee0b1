"""The tools of the Berkeley Function Calling Leaderboard, as the package bfcl-eval has them."""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from verifier.chat.tools import Tool

PACKAGE = "bfcl-eval==2026.3.23"
FILES = ("live_multiple", "live_parallel_multiple", "multiple", "simple_python", "parallel")
TYPES = {"dict": "object", "float": "number", "tuple": "array", "hashmap": "object"}
# What a model without training says within a test's length.
BOUNDS: dict[str, dict[str, Any]] = {
    "string": {"maxLength": 4},
    "integer": {"minimum": 0, "maximum": 999},
    "number": {"minimum": 0, "maximum": 9},
    "array": {"maxItems": 2},
}


def bfcl_tools(count: int) -> list[Tool]:
    """So many tools from all kinds of tasks; skips where the package is not to be had."""
    found: dict[str, Tool] = {}
    readers = [_tools(_wheel(), name) for name in FILES]
    while len(found) < count:
        for reader in readers:
            tool = next(reader)
            found.setdefault(json.dumps(tool.schema), tool)
    return list(found.values())[:count]


def _wheel() -> Path:
    """The package's file, fetched once; none of its dependencies is needed."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lookahead" / "bfcl"
    if not any(cache.glob("*.whl")):
        command = ["-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(cache), PACKAGE]
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"{PACKAGE} cannot be fetched: {done.stderr[-200:]}")
    return next(cache.glob("*.whl"))


def _tools(wheel: Path, name: str) -> Iterator[Tool]:
    with zipfile.ZipFile(wheel) as package:
        lines = package.read(f"bfcl_eval/data/BFCL_v4_{name}.json").decode().splitlines()
    for line in lines:
        for function in json.loads(line)["function"]:
            schema = _schema(function["parameters"])
            tool_name = function["name"].replace(".", "_")[:60]
            yield Tool(tool_name, function["description"][:80], json.dumps(schema))


def _schema(given: dict[str, Any]) -> dict[str, Any]:
    """Their schema as JSON Schema, bounded."""
    kind = TYPES.get(given.get("type", ""), given.get("type"))
    made: dict[str, Any] = {} if kind in (None, "any") else {"type": kind}
    if "enum" in given:
        return {"enum": given["enum"]}
    made |= BOUNDS.get(str(kind), {})
    if kind == "object":
        properties = given.get("properties", {})
        made["properties"] = {name: _schema(each) for name, each in properties.items()}
        made["required"] = [name for name in given.get("required", ()) if name in properties]
        made["additionalProperties"] = False
    if kind == "array" and "items" in given:
        made["items"] = _schema(given["items"])
    return made if made else {"type": "string", "maxLength": 4}
