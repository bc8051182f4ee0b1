"""Functions in namespaces: a model knows each by one name, clients by the name and its namespace.

Example: `read` in the namespace `files` is `files__read` for the model.
"""

from collections.abc import Iterator, Mapping, Sequence

from lookahead.gateway.responses.schema import FunctionTool, NamespaceTool, Tool

Names = Mapping[str, dict[str, str]]  # of a call's fields, by the name that the model has


def name_of(name: str, namespace: str = "") -> str:
    """Return the name that the model has for a function."""
    return f"{namespace}__{name}" if namespace else name


def functions(tools: Sequence[Tool]) -> Iterator[tuple[str, FunctionTool]]:
    """Yield all functions with the names that the model has for them."""
    for tool in tools:
        if isinstance(tool, NamespaceTool):
            yield from ((name_of(inner.name, tool.name), inner) for inner in tool.tools)
        else:
            yield tool.name, tool


def names_of(tools: Sequence[Tool]) -> Names:
    """Return what a client calls the functions that are in namespaces."""
    return {
        name_of(inner.name, tool.name): {"name": inner.name, "namespace": tool.name}
        for tool in tools
        if isinstance(tool, NamespaceTool)
        for inner in tool.tools
    }
