"""Values of files: read again when a file changes, kept where it cannot be read."""

import os
from pathlib import Path

import pytest

from rpc.followed import Followed


def test_a_value_follows_its_files_whichever_changes(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("1")
    two.write_text("2")
    followed = Followed("numbers", [one, two], lambda: one.read_text() + two.read_text())
    first = followed.current()
    assert first == "12"
    assert followed.current() is first, "read again though nothing changed"
    for path, expected in ((one, "a2"), (two, "aa")):
        other = tmp_path / "other"  # as who renews a file does it
        other.write_text("a")
        os.replace(other, path)
        assert followed.current() == expected


@pytest.mark.parametrize("text", [None, "not a number"])
def test_what_cannot_be_read_is_said_once_and_changes_nothing(
    tmp_path: Path, text: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "number"
    path.write_text("1")
    followed = Followed("numbers", [path], lambda: int(path.read_text()))
    path.unlink()
    if text is not None:
        path.write_text(text)
    assert [followed.current() for _ in range(3)] == [1, 1, 1]
    assert caplog.text.count("numbers_unreadable") == 1
    path.write_text("2")
    os.utime(path, ns=(0, 1))  # a clock that is too coarse to tell
    assert followed.current() == 2


def test_a_value_that_cannot_be_read_at_first_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "number"
    with pytest.raises(OSError, match="number"):
        Followed("numbers", [path], path.read_text)
