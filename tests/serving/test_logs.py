"""The log of a process: one line per event, readable or JSON, whoever writes it."""

import datetime
import json
import subprocess
import sys
from typing import Any

from tests.support import ROOT

EVENTS = """
import asyncio, logging, threading, warnings
from serving.logs import configure_logging
configure_logging({arguments})
log = logging.getLogger("serving.test")
log.info("hello %s", "wor\\nld", extra={{"request_id": "7", "model": "digits", "version": "3"}})
try:
    raise ValueError("two\\nlines \\u20ac")
except ValueError:
    log.exception("failed")
logging.getLogger("grpc._cython.cygrpc").error("of grpc")
async def lost():
    asyncio.get_running_loop().call_soon(lambda: 1 / 0)
    await asyncio.sleep(0)
asyncio.run(lost())
warnings.warn("beware")
thread = threading.Thread(target=lambda: {{}}["key"])
thread.start()
thread.join()
log.debug("not of interest")
raise RuntimeError("the end")
"""


def standard_error(arguments: str) -> list[str]:
    """What a process with such a log writes in events of many kinds."""
    code = EVENTS.format(arguments=arguments)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_json_is_one_object_per_event_whatever_it_is() -> None:
    lines: list[dict[str, Any]] = [json.loads(line) for line in standard_error("'json', worker=2")]
    assert [line["logger"] for line in lines] == [
        "serving.test",
        "serving.test",
        "grpc._cython.cygrpc",
        "asyncio",
        "py.warnings",
        "serving.logs",
        "serving.logs",
    ]
    for line in lines:
        assert next(iter(line)) == "time"
        assert datetime.datetime.fromisoformat(line["time"]).utcoffset() == datetime.timedelta(0)
        assert line["worker"] == 2
        assert type(line["pid"]) is int
    hello, failed, grpc, loop, warning, thread, end = lines
    assert hello.keys() == {"time", "level", "logger", "message", "pid", "worker", "request_id", "model", "version"}
    assert [hello[key] for key in ("level", "message", "request_id", "model", "version")] == [
        "INFO",
        "hello wor\nld",
        "7",
        "digits",
        "3",
    ]
    assert failed["exception"].startswith("Traceback (most recent call last):\n")
    assert failed["exception"].endswith("ValueError: two\nlines \u20ac")
    assert (grpc["level"], grpc["message"]) == ("ERROR", "of grpc")
    assert loop["exception"].endswith("ZeroDivisionError: division by zero")
    assert "beware" in warning["message"]
    assert (thread["level"], thread["message"]) == ("CRITICAL", "uncaught KeyError")
    assert end["exception"].endswith("RuntimeError: the end")


def test_json_of_a_single_worker_names_none() -> None:
    assert all("worker" not in json.loads(line) for line in standard_error("'json'"))


def test_text_is_for_people() -> None:
    text = "\n".join(standard_error(""))
    assert " INFO serving.test: hello wor\nld\n" in text
    assert " ERROR grpc._cython.cygrpc: of grpc\n" in text
    assert "\nTraceback (most recent call last):\n" in text
    assert text.endswith("RuntimeError: the end")
