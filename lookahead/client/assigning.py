"""Sets fields of contract messages from what a caller gave."""

from collections.abc import Iterable, Mapping
from typing import Any

from lookahead.client.errors import invalid_field


def assign(message: Any, field: str, value: Any, name: str) -> None:
    """Set one field of any kind; protobuf's complaint about a value gets the argument's name."""
    try:
        if isinstance(value, Mapping):
            getattr(message, field).update(value)
        elif isinstance(value, Iterable) and not isinstance(value, str | bytes):
            getattr(message, field).extend(value)
        else:
            setattr(message, field, value)
    except (TypeError, ValueError, AttributeError) as error:
        raise invalid_field(name, f"{error}, got {value!r}"[:300]) from None
