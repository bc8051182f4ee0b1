"""What the services and their users agree on beside the .proto files, each thing written once.

`Learn` and `Source` have the names and numbers of the .proto files; a test compares them.
"""

import enum
import re

# In what is said about a prompt or an output that is too long for the model.
LEAVES_ROOM = "to leave room in the context"
MAX_NAME_CHARS = 128  # of a namespace or a vocabulary: names are parts of Redis keys
_ALLOWED = re.compile(r"[A-Za-z0-9._-]*")


class Learn(enum.IntEnum):
    """What the memory may learn from a request."""

    NONE = 1
    OUTPUT = 2
    ALL = 3


class Source(enum.IntEnum):
    """Where a drafted token came from."""

    UNKNOWN = 0
    LOCAL = 1  # the request's own prompt, prediction and output
    NAMESPACE = 2  # what its namespace has learned
    SUCCESSORS = 3  # the target model's own recent next tokens
    CONSTRAINT = 4  # what the output's constraint implies; no drafter has a part in it

    @classmethod
    def of(cls, number: int) -> "Source":
        """Return the source of a number from outside; one that means nothing is UNKNOWN."""
        return _SOURCES[number] if 0 <= number < len(_SOURCES) else cls.UNKNOWN

    @property
    def label(self) -> str:
        """Its name for people, metrics and JSON, such as "local"."""
        return self.name.lower()


_SOURCES = tuple(Source)  # by number: members of an enumeration are slow to look up


class StartupPart(enum.StrEnum):
    """What a verifier needs before it serves, in this order; its health service names each."""

    WEIGHTS = "weights"
    FORM = "verification-form"
    STEP_TIMES = "step-times"


def problem_with_name(name: str, *, may_be_empty: bool = False) -> str | None:
    """Say what is wrong with the name of a namespace or a vocabulary; None where nothing is.

    `problem_with_name("team a")` is "must be 1 to 128 of A-Z a-z 0-9 . _ -".
    """
    fits = len(name) <= MAX_NAME_CHARS and (name or may_be_empty)
    if fits and _ALLOWED.fullmatch(name):
        return None
    return f"must be {'at most' if may_be_empty else '1 to'} {MAX_NAME_CHARS} of A-Z a-z 0-9 . _ -"
