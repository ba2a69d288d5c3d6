"""A filter for gRPC's own log lines: a stranger must not be able to fill the log."""

import logging

from grpc import aio

NOISE = (
    UnicodeDecodeError,  # a path or a header is not UTF-8; the text repeats it in full, and it may be a token
    aio.InternalError,  # the caller of an answer has gone
)


def keep_strangers_out_of_the_log() -> None:
    """Drop the traceback that gRPC logs for each such call. A caller that is still there is answered all the same."""
    logging.getLogger("grpc._cython.cygrpc").addFilter(_is_news)  # adding it twice adds it once


def _is_news(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], NOISE))
