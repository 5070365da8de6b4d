"""The server's log: lines for people, or JSON objects for machines, on stderr.

    _log.info("client gone", extra={"conversation": id, "seconds": 12})

reads `... INFO client gone conversation=... seconds=12`. As JSON, the line has the same fields as keys. What a client
sent is put into such fields only, never into the message. Both formats escape the fields, so a client cannot write a
line of its own into the log.
"""

import json
import logging
import sys
import time
from typing import Any

from dia2stream.options import LogFormat, LogLevel

_STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}


def set_up(level: LogLevel, format: LogFormat) -> None:
    """Sends the log to stderr. Of libraries, only warnings and errors are logged: at `debug` they would log tokens."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if format == "json" else TextLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("dia2stream.websockets").setLevel(logging.WARNING)
    for package in ("dia2", "dia2stream"):
        logging.getLogger(package).setLevel(level.upper())
    logging.captureWarnings(True)


class TextLines(logging.Formatter):
    """`2026-03-01T12:00:00.000Z INFO message key=value`, with a traceback on the lines below if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {key}={_shown(value)}" for key, value in _fields(record).items())
        line = f"{_time(record)} {record.levelname} {record.getMessage()}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the fields, and the traceback as `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        line = {"time": _time(record), "level": record.levelname.lower(), "logger": record.name}
        line["message"] = record.getMessage()
        line.update(_fields(record))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """The fields that the caller gave as `extra`."""
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def _shown(value: object) -> str:
    return json.dumps(value, default=str) if isinstance(value, str) and not value.isalnum() else str(value)


def _time(record: logging.LogRecord) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.msecs):03d}Z"
