"""The alarm of a collapse: few latents are in use, and they hold next to nothing."""

import pytest

from training.alarms import COLLAPSED_KL, SETTLING_STEPS, collapse_warning
from training.config import Config


@pytest.mark.parametrize(
    ("latents", "active", "kl", "collapsed"),
    [
        (300, 22, 25.0, False),  # few of many, which hold a lot
        (300, 22, COLLAPSED_KL, False),
        (300, 22, 0.3, True),
        (20, 2, 0.3, False),  # a tenth
        (20, 1, 0.3, True),
        (4, 1, 0.3, False),
        (4, 0, 0.05, True),
        (4, 0, 9.0, True),  # none varies: the KL is that of a posterior that is the same for all images
    ],
)
def test_a_posterior_has_collapsed_if_few_latents_hold_little(
    latents: int, active: int, kl: float, collapsed: bool
) -> None:
    row = {"epoch": 3.0, "active_units": float(active), "test_kl": kl}
    config = Config(latent_dim=latents)
    assert (collapse_warning(row, config, SETTLING_STEPS) is not None) == collapsed
    assert collapse_warning(row, config, SETTLING_STEPS - 1) is None
