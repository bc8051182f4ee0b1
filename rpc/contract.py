"""The contract's enumerations that several of our packages use, each as one Python table.

Names and numbers equal those of the .proto files; a test compares them.
"""

import enum


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
        return cls(number) if 0 <= number < len(cls) else cls.UNKNOWN

    @property
    def label(self) -> str:
        """Its name for people, metrics and JSON, such as "local"."""
        return self.name.lower()
