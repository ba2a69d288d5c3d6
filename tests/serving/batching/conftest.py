"""What the tests of the batcher share."""

import pytest

from tests.serving.batching.toys import Clock, ToyEngine


@pytest.fixture
def engine() -> ToyEngine:
    """Runs a batch until it is told to finish."""
    return ToyEngine(Clock(), held=True)
