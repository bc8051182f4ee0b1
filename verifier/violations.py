"""Collects what is wrong with a request, so that its caller learns everything at once."""

from rpc.errors import MAX_VALUE_CHARS, FieldViolation, InvalidRequest


class Violations:
    """Grows by `require`; `raise_any` ends the request if there are some."""

    def __init__(self) -> None:
        self._found: list[FieldViolation] = []

    def require(self, is_right: bool, field: str, problem: str, value: object = None) -> bool:
        """Note the problem unless it `is_right`; return which."""
        if not is_right:
            # Numbers arrive in single precision: 1.01 should not read 1.0099999904632568.
            shown = f"{value:g}" if isinstance(value, float) else repr(value)
            quoted = "" if value is None else f", got {shown[:MAX_VALUE_CHARS]}"
            self._found.append(FieldViolation(field, problem + quoted))
        return is_right

    def raise_any(self) -> None:
        """Raise InvalidRequest if anything was wrong."""
        if self._found:
            raise InvalidRequest(*self._found)
