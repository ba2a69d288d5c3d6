"""What gRPC writes to the log by itself, less what a stranger could fill it with."""

import logging

from grpc import aio

NOISE = (
    UnicodeDecodeError,  # a path or a header that is no UTF-8. It is repeated in full, and may be a token
    aio.InternalError,  # an answer that nobody is there to take any more
)


def keep_strangers_out_of_the_log() -> None:
    """Drop what gRPC says, with a traceback, of each such call. Whoever still listens is answered all the same."""
    logging.getLogger("grpc._cython.cygrpc").addFilter(_is_news)  # twice is once


def _is_news(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], NOISE))
