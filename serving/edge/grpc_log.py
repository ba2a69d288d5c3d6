"""What gRPC writes to the log by itself, less what a stranger could fill it with."""

import logging


def keep_headers_out_of_the_log() -> None:
    """Drop gRPC's complaints about text that is no UTF-8: they repeat the text, with a traceback, for each call.

    It may be a token, or whatever else somebody sends in a path or a header. The caller is answered all the same.
    """
    logging.getLogger("grpc._cython.cygrpc").addFilter(_is_readable)  # twice is once


def _is_readable(record: logging.LogRecord) -> bool:
    return not (record.exc_info and record.exc_info[0] and issubclass(record.exc_info[0], UnicodeDecodeError))
