"""Log set-up of the server: one line per event, on standard error."""

import logging


def configure_logging() -> None:
    """Called once per process, by its main function."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s")
