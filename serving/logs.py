"""Log set-up of the server: one line per event on standard error, for people, or for programs (`--log-format json`).

The fields of JSON: time (RFC 3339, UTC), level, logger, message, pid; where they are known worker, request_id, model,
version; exception and stack, with their newlines escaped. An event may bring further ones (`extra=` of logging).
Messages hold no payload, no latent and no token: what a caller sent is named by its field, shape and position alone.
"""

import logging
import sys
import threading
from types import TracebackType
from typing import Literal

LogFormat = Literal["text", "json"]

TEXT = "%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"
NAMES = {"levelname": "level", "name": "logger", "process": "pid", "exc_info": "exception", "stack_info": "stack"}

log = logging.getLogger(__name__)


def configure_logging(style: LogFormat = "text", worker: int | None = None) -> None:
    """Called once per process, by its main function.

    Args:
        style: the format of the lines.
        worker: the number of this worker, if there are several.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(_json_formatter(worker) if style == "json" else logging.Formatter(TEXT))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    if style == "json":  # what Python itself writes to standard error has many lines
        logging.captureWarnings(True)
        sys.excepthook = _log_uncaught
        threading.excepthook = lambda thrown: _log_uncaught(thrown.exc_type, thrown.exc_value, thrown.exc_traceback)


def report_fatal(error: Exception, style: LogFormat) -> None:
    """Log why this process ends. It is a mistake of its user, so there is no traceback."""
    if style == "json":
        log.critical("%s", error)
    else:
        print(f"serving: error: {error}", file=sys.stderr)


def _json_formatter(worker: int | None) -> logging.Formatter:
    from pythonjsonlogger.json import JsonFormatter  # not at the top: most servers write text

    return JsonFormatter(
        ["levelname", "name", "message", "process"],
        rename_fields=NAMES,
        defaults={"time": ""},  # puts the time first
        timestamp="time",
        static_fields={} if worker is None else {"worker": worker},
    )


def _log_uncaught(kind: type[BaseException], error: BaseException | None, traceback: TracebackType | None) -> None:
    """Log an exception that ends a process or a thread, in place of Python's own traceback."""
    if error is None or issubclass(kind, KeyboardInterrupt | SystemExit):
        return
    log.critical("uncaught %s", kind.__name__, exc_info=(kind, error, traceback))
