"""What a user of training can do wrong. `python -m training` prints these without a traceback."""


class TrainingError(Exception):
    """Base of all."""


class DataError(TrainingError, ValueError):
    """The data cannot be read, or cannot be learned from. The text names the file, what was expected, what came."""


class RunError(TrainingError, ValueError):
    """A run directory that is none, exists already, or does not fit."""


class DivergedError(TrainingError, ArithmeticError):
    """The loss is no longer a finite number. The last good checkpoint is kept."""
