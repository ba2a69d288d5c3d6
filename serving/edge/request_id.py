"""Request ids: one for each call, seen by its caller in errors and by the operator in the log.

A caller may send its own in the metadata `x-request-id`. Otherwise one is made when it is first needed, for an error or
a log line, so that it costs a successful call nothing.
"""

import re
import uuid
from collections.abc import Iterable

from vaeport.wire import REQUEST_ID_KEY

VALID = re.compile(r"[!-~]{1,128}")  # visible ASCII: it goes into log lines and back into metadata


def request_id_of(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """The id in the metadata of a call, if it is valid; else a new one."""
    for key, value in metadata:
        if key == REQUEST_ID_KEY and isinstance(value, str) and VALID.fullmatch(value):
            return value
    return uuid.uuid4().hex
