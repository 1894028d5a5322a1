"""How log lines look: one line of JSON each, or a line for people. Both know their request."""

from __future__ import annotations

import logging
import sys
import time
from contextvars import ContextVar
from typing import TextIO

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
"""Of the request that is being answered: a line may be written by code that was not handed it."""

OWN_LOGGERS = ("server", "engine", "weights")
"""Only these follow the level that is asked for; others are heard when they warn."""

_JSON_NAMES = {"levelname": "level", "name": "logger"}
_KNOWN = {*RESERVED_ATTRS, "request_id"}


class RequestIdFilter(logging.Filter):
    """Gives each line of a request its ``request_id``."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keeps every line."""
        request_id = REQUEST_ID.get()
        if request_id is not None and not hasattr(record, "request_id"):
            record.request_id = request_id
        return True


class TextFormatter(logging.Formatter):
    """Time, level, logger and message, then each field as ``name=value``."""

    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
        self.converter = time.gmtime

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        """The line, without what an exception adds."""
        told = {name: value for name, value in vars(record).items() if name not in _KNOWN}
        if hasattr(record, "request_id"):
            told["request_id"] = record.request_id
        fields = (f" {name}={_shown(value)}" for name, value in told.items())
        return super().formatMessage(record) + "".join(fields)


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ",".join(f"{name}:{count}" for name, count in value.items())
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def json_formatter() -> logging.Formatter:
    """One object a line: time, level, logger, message, then each field by its name."""
    return JsonFormatter(
        ["levelname", "name", "message"],
        style="sequence",
        rename_fields=_JSON_NAMES,
        timestamp="time",
    )


def configure(log_format: str, log_level: str, output: TextIO = sys.stderr) -> None:
    """Send the lines of this process to ``output``, in place of whatever was there."""
    handler = logging.StreamHandler(output)
    handler.setFormatter(json_formatter() if log_format == "json" else TextFormatter())
    handler.addFilter(RequestIdFilter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    for name in OWN_LOGGERS:
        logging.getLogger(name).setLevel(log_level.upper())
