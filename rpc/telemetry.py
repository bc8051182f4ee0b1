"""How our processes log: one line per event, to stderr, as key=value pairs or as JSON.

A message is written once, `logger.info("request_end id=%s steps=%d", ...)`; its template says which
of its arguments is which field.
"""

import json
import logging
import re
import time
from collections.abc import Mapping
from typing import Any, Literal

from rpc.log_sums import SummingHandler

TEXT = "%(asctime)s.%(msecs)03dZ level=%(levelname)s logger=%(name)s %(message)s"
ISO = "%Y-%m-%dT%H:%M:%S"
FIELD = re.compile(r"\s*(\w+)=%(?:\.\d+)?[a-z]")
CONVERSION = re.compile(r"%[^%]")

LogFormat = Literal["text", "json"]


def configure_logging(level: str, log_format: LogFormat = "text") -> None:
    """Log everything from `level` upwards; called once, by `__main__`."""
    handler = SummingHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else _text_formatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, event, then the event's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; an exception's traceback is one of its fields."""
        when = time.strftime(ISO, time.gmtime(record.created))
        line = {
            "time": f"{when}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            **_event(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _event(record: logging.LogRecord) -> dict[str, Any]:
    """Return the name of the event and its fields; the whole message where it names none."""
    template, arguments = str(record.msg), record.args
    names = FIELD.findall(template)
    if not isinstance(arguments, tuple) or len(names) != len(CONVERSION.findall(template)):
        return {"event": record.getMessage()}
    event = FIELD.sub("", template).strip()
    return {"event": event, **dict(zip(names, map(_plain, arguments), strict=True))}


def _plain(value: object) -> object:
    """Return what JSON can say of an argument."""
    if isinstance(value, float):
        return round(value, 4)
    return value if isinstance(value, str | int | Mapping | None) else str(value)


def _text_formatter() -> logging.Formatter:
    formatter = logging.Formatter(TEXT, datefmt=f"time={ISO}")
    formatter.converter = time.gmtime
    return formatter
