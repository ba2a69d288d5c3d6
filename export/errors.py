"""What can go wrong with an export. `python -m export` prints these without a traceback and exits 1."""


class ExportError(Exception):
    """Base of all."""


class ParityError(ExportError):
    """A graph does not compute what PyTorch computes. The text names where, both values, the error and the limit."""


class VersionExistsError(ExportError):
    """The version that was asked for is there already; a published package never changes."""
