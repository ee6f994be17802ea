"""Logs as one JSON object a line, on standard error. Keys of the api never get in: they are cut out of every text."""

import json
import logging
import re
import sys
import time
from typing import Any

_KEY = re.compile(r"ws_[0-9A-Za-z]{8}_[0-9A-Za-z_]+")
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Handler):
    """Control characters and ANSI escapes are escaped by JSON, so no text can forge a line."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(self.format(record) + "\n")

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _OWN and value is not None}
        if record.exc_info:
            line["trace"] = logging.Formatter().formatException(record.exc_info)
        return redacted(json.dumps(line, default=str))


def redacted(text: str) -> str:
    return _KEY.sub(lambda found: f"{found[0][:11]}…", text)


def configure(level: str) -> None:
    """Make this process log as JSON. Calling it again changes the level only."""
    root = logging.getLogger()
    if not any(isinstance(handler, JsonLines) for handler in root.handlers):
        root.addHandler(JsonLines())
    root.setLevel(level.upper())
    for chatty in ("alembic", "httpx", "httpx2", "httpcore", "uvicorn.access"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    for own_format in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(own_format)
        logger.handlers.clear()
        logger.propagate = True
