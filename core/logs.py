"""Logs of the service's processes as one JSON object a line, on standard error. Keys and passwords never get in: they
are cut out of every text. Prompts and answers are not logged at all. `docs/operating.md` lists the fields."""

import json
import logging
import os
import re
import sys
import threading
import time
from types import TracebackType
from typing import Any

_KEY = re.compile(r"ws_[0-9A-Za-z]{8}_[0-9A-Za-z_]+")
_PASSWORD = re.compile(r"(://[^\s:/@]*):[^\s/@]+@")
"""of a URL"""
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message", "data"}
"""what Python, uvicorn and Celery put there; everything else was said on purpose"""


class JsonLines(logging.Handler):
    """Control characters and ANSI escapes are escaped by JSON, so no text can forge a line."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(self.format(record) + "\n")

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": os.getpid(),
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _OWN and value is not None}
        if record.exc_info:
            line["trace"] = logging.Formatter().formatException(record.exc_info)
        return redacted(json.dumps(line, default=str))


def redacted(text: str) -> str:
    return _PASSWORD.sub(r"\1:…@", _KEY.sub(lambda found: f"{found[0][:11]}…", text))


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


def own_process(level: str) -> None:
    """`configure`, and what Python itself would write in lines of its own: warnings and last words."""
    configure(level)
    logging.captureWarnings(True)
    sys.excepthook = _crashed
    threading.excepthook = _thread_crashed


def say_at_once(logger: str, message: str) -> None:
    """A line from within a signal handler, where nobody may wait for a lock."""
    record = logging.LogRecord(logger, logging.INFO, "", 0, message.strip(), (), None)
    os.write(sys.stderr.fileno(), f"{JsonLines().format(record)}\n".encode())


def _crashed(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.getLogger("crash").critical("the process ends: %s", kind.__name__, exc_info=(kind, error, trace))


def _thread_crashed(crash: threading.ExceptHookArgs) -> None:
    if crash.exc_value is not None:
        name = crash.thread.name if crash.thread else "?"
        logging.getLogger("crash").critical("thread %s ends", name, exc_info=crash.exc_value)
