"""The line of an epoch says what its loss consists of."""

from dataclasses import replace
from typing import Any

import pytest

from training.config import Config
from training.progress import _line

ROW = {
    "epoch": 3.0,
    "train_loss": 100.0,
    "test_loss": 101.0,
    "reconstruction": 80.0,
    "kl": 20.0,
    "beta": 1.0,
    "active_units": 4.0,
    "seconds": 1.5,
}


@pytest.mark.parametrize(
    ("changes", "bracket"),
    [
        ({}, "(reconstruction 80.00 + KL 20.00)"),
        ({"free_bits": 0.5}, "(reconstruction 80.00 + KL 20.00, at least 0.5 counted per latent)"),
        (
            {"objective": "iwae", "importance_samples": 5},
            "(reconstruction 80.00 + KL 20.00, less what weighing 5 draws brings)",
        ),
        (
            {"objective": "dreg", "importance_samples": 8, "beta": 2.0},
            "(reconstruction 80.00 + KL 20.00, beta still 1.00, less what weighing 8 draws brings)",
        ),
        ({"autoencoder": True}, "(reconstruction 80.00 + KL 20.00)"),
    ],
)
def test_the_bracket_names_what_the_loss_has_beside_its_terms(changes: dict[str, Any], bracket: str) -> None:
    assert bracket in _line(ROW, replace(Config(), **changes))
