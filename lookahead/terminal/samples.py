"""Prompts that hold a document, for the demo and the check; written for a base model."""

from dataclasses import dataclass
from pathlib import Path

from lookahead.client.errors import InvalidRequest

DIRECTORY = Path(__file__).parent.parent / "prompts"


@dataclass(frozen=True, slots=True)
class Sample:
    """A prompt and the name it goes by in tables."""

    name: str
    text: str


def load_samples() -> list[Sample]:
    """Return the built-in prompts."""
    return [
        Sample("document answers", _read("lighthouse")),
        Sample("minutes as list", _read("minutes")),
        Sample("table as JSON", _read("stock")),
    ]


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


def _read(name: str) -> str:
    return (DIRECTORY / f"{name}.txt").read_text()
