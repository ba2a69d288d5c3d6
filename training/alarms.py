"""Warnings that come while a run can still be stopped."""

from training.config import Config
from training.run import Metrics

ACTIVE_SHARE = 0.1  # of the latents: with fewer than these in use, a posterior has collapsed
COLLAPSED_KL = 2.0  # nats: with less, those few tell next to nothing; in a wide latent a tenth can hold far more
SETTLING_STEPS = 200  # of the optimiser before anything can be said: all latents start inactive


def collapse_warning(row: Metrics, config: Config, steps: int) -> str | None:
    """A warning that the posterior (almost) equals the prior for every image; None if it does not.

    Args:
        row: the metrics of the epoch, with `active_units` and `test_kl`.
        config: the run's settings.
        steps: the steps taken so far.
    """
    active, latents = int(row["active_units"]), config.latent_dim
    if config.autoencoder or steps < SETTLING_STEPS or active >= max(1.0, ACTIVE_SHARE * latents):
        return None
    if active and row["test_kl"] >= COLLAPSED_KL:
        return None
    return (
        f"epoch {row['epoch']:g}: posterior collapse: {active} of {latents} latents are active, "
        f"KL {row['test_kl']:.2f} nats: the decoder ignores the latent. Try {'; '.join(_remedies(config))}"
    )


def unused_warning(row: Metrics, config: Config, steps: int) -> str | None:
    """A warning at the end that no latent is in use, after too few steps for `collapse_warning` to judge; else None."""
    if config.autoencoder or row["active_units"] or steps >= SETTLING_STEPS:
        return None
    return f"0 of {config.latent_dim} latents active after only {steps} steps: too short, or collapsed"


def _remedies(config: Config) -> list[str]:
    remedies = [f"a lower --beta than {config.beta:g}"] if config.beta > 1.0 else []
    if not (config.warmup_epochs or config.warmup_steps or config.cycles):
        remedies.append(f"a warm-up (--warmup-epochs {max(1, config.epochs // 10)})")
    if config.likelihood == "gaussian" and config.variance == "fixed":
        remedies.append(f"--variance learned (a sigma of {config.sigma:g} explains most of the image as noise)")
    if config.objective == "elbo" and not config.free_bits and config.capacity is None:
        remedies.append("--free-bits 0.1")
    return [*remedies, "a lower --lr"]
