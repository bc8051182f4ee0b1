"""Write the reference of the contract from its comments: `python -m protos.reference [FILE]`."""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
)
from grpc_tools import protoc

from protos.generate import PROTOS, ROOT

TARGET = ROOT / "docs" / "grpc.md"
INTRODUCTION = """# The gRPC contract

Every call, message and field, from the comments in [`protos/`](../protos). See [api.md](api.md) for
their use. `make protos` generates this page.
"""
# Field numbers in descriptor.proto, of which the places of comments are made.
MESSAGES, ENUMS, SERVICES = 4, 5, 6
METHODS, FIELDS, NESTED, NESTED_ENUMS, VALUES = 2, 2, 3, 4, 2

Place = tuple[int, ...]


class Reference:
    """The pages of one .proto file."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self._file = file
        self._comments: dict[Place, str] = {
            tuple(location.path): " ".join(location.leading_comments.split())
            for location in file.source_code_info.location
        }

    def lines(self) -> Iterator[str]:
        """Yield services, then messages, then enums."""
        for i, service in enumerate(self._file.service):
            yield from (f"## {service.name}", "", self._comments[(SERVICES, i)], "")
            yield from ("| call | request | response | |", "|---|---|---|---|")
            for j, method in enumerate(service.method):
                yield self._method(method, (SERVICES, i, METHODS, j))
            yield ""
        for i, message in enumerate(self._file.message_type):
            yield from self._message(message, message.name, (MESSAGES, i))
        for i, enum in enumerate(self._file.enum_type):
            yield from self._enum(enum, enum.name, (ENUMS, i))

    def _method(self, method: MethodDescriptorProto, place: Place) -> str:
        request = _name(method.input_type, is_many=method.client_streaming, many="stream")
        response = _name(method.output_type, is_many=method.server_streaming, many="stream")
        return f"| `{method.name}` | {request} | {response} | {self._comments[place]} |"

    def _message(self, message: DescriptorProto, name: str, place: Place) -> Iterator[str]:
        if message.options.map_entry:
            return
        yield from (f"### {name}", "", self._comments[place], "")
        if message.field:
            yield from ("| field | type | |", "|---|---|---|")
        for i, field in enumerate(message.field):
            comment = self._comments[(*place, FIELDS, i)]
            yield f"| `{field.name}` | {_type(field, message)} | {_cell(comment)} |"
        yield ""
        for i, nested in enumerate(message.nested_type):
            yield from self._message(nested, f"{name}.{nested.name}", (*place, NESTED, i))
        for i, enum in enumerate(message.enum_type):
            yield from self._enum(enum, f"{name}.{enum.name}", (*place, NESTED_ENUMS, i))

    def _enum(self, enum: EnumDescriptorProto, name: str, place: Place) -> Iterator[str]:
        yield from (f"### {name}", "", self._comments[place], "", "| value | |", "|---|---|")
        for i, value in enumerate(enum.value):
            yield f"| `{value.name}` | {_cell(self._comments[(*place, VALUES, i)])} |"
        yield ""


def reference() -> str:
    """Return the whole page."""
    lines = [INTRODUCTION]
    for file in _files(PROTOS):
        lines += Reference(file).lines()
    return "\n".join(lines).rstrip() + "\n"


def _files(protos: Sequence[str]) -> list[FileDescriptorProto]:
    with tempfile.TemporaryDirectory() as directory:
        found = Path(directory) / "descriptors"
        command = ["protoc", f"-I{ROOT}", "--include_source_info", f"-o{found}", *protos]
        if protoc.main(command) != 0:
            raise RuntimeError(f"protoc failed for {protos}")
        files = {file.name: file for file in FileDescriptorSet.FromString(found.read_bytes()).file}
    return [files[name] for name in reversed(protos)]


def _type(field: FieldDescriptorProto, message: DescriptorProto) -> str:
    entry = next((n for n in message.nested_type if field.type_name.endswith(f".{n.name}")), None)
    if entry is not None and entry.options.map_entry:
        key, value = entry.field
        return f"map of {_scalar(key)} to {_scalar(value)}"
    is_many = field.label == FieldDescriptorProto.LABEL_REPEATED
    name = _name(field.type_name, is_many=is_many) if field.type_name else _scalar(field)
    if is_many and not field.type_name:
        name = f"list of {name}"
    if field.proto3_optional:
        return f"optional {name}"
    if field.HasField("oneof_index"):
        return f"{name}, one of `{message.oneof_decl[field.oneof_index].name}`"
    return name


def _scalar(field: FieldDescriptorProto) -> str:
    return FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()


def _name(full_name: str, *, is_many: bool, many: str = "list") -> str:
    """Link to a message or enum of this page."""
    name = full_name.removeprefix(".lookahead.v1.")
    link = f"[{name}](#{name.lower().replace('.', '')})"
    return f"{many} of {link}" if is_many else link


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET
    target.write_text(reference())
