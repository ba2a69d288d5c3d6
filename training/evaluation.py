"""What a trained model is worth on some images: its bound, its likelihood, what its latents hold. In nats per image."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from training.estimators import log_likelihood
from training.initial import derived_seeds
from training.latents import (
    ACTIVE_VARIANCE,
    Aggregate,
    Labels,
    LinearProbe,
    active_units,
    aggregate_posterior,
    linear_probe,
)
from training.model import VAE
from training.objective import kl_per_latent, reparameterize

QUANTILES = (0.01, *(step / 20 for step in range(1, 20)), 0.99)

Batches = Callable[[], Iterable[Tensor]]
Progress = Callable[[int], object]


@dataclass(frozen=True, slots=True)
class LogLikelihood:
    """The importance-weighted estimate: its mean over the images, the standard error of that, and latents per image."""

    mean: float
    standard_error: float | None
    samples: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The measures of a model. Means over the images unless said otherwise.

    Of a Gaussian model, ELBO and log-likelihood are of densities, and may be positive. A plain autoencoder has no
    posterior: what depends on one is None.

    Attributes:
        images: how many.
        reconstruction: E_q[-log p(x|z)], from one latent each.
        active_units: latents whose posterior mean varies by more than `active_variance` over the images.
        active_variance: the threshold.
        linear_probe: of the posterior means.
        kl: KL(q(z|x) || p(z)), in closed form.
        elbo: -(reconstruction + kl), at most the log-likelihood.
        elbo_quantiles: of the images' own ELBOs, as estimated from one latent: by "min", "0.01", "0.05", "0.1", ...,
            "0.95", "0.99", "max".
        kl_per_latent: in the latent's order; they add up to `kl`.
        aggregate: mutual information, and distance of the aggregate posterior from the prior.
        log_likelihood: None unless asked for.
    """

    images: int
    reconstruction: float
    active_units: int
    active_variance: float
    linear_probe: LinearProbe
    kl: float | None = None
    elbo: float | None = None
    elbo_quantiles: dict[str, float] | None = None
    kl_per_latent: list[float] | None = None
    aggregate: Aggregate | None = None
    log_likelihood: LogLikelihood | None = None

    def to_json(self) -> dict[str, Any]:
        """The measures as plain values; None stays None."""
        return asdict(self)


def evaluate_model(
    model: VAE,
    batches: Batches,
    *,
    labels: Labels | None = None,
    train_batches: Batches | None = None,
    train_labels: Labels | None = None,
    samples: int = 0,
    seed: int = 0,
    autoencoder: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure a model; it is put into eval mode.

    Args:
        model: on its device.
        batches: the images to score, float32 [batch, C, H, W] in [0, 1], as the run binarises them, on its device.
        labels: of these images, [N]; -1 is none.
        train_batches, train_labels: what to train the linear probe on.
        samples: latents per image for the log-likelihood; 0: no such estimate.
        seed: of all noise. The ELBO does not depend on `samples`.
        autoencoder: the latent is the posterior mean, and its variance means nothing.
        progress: is told the number of images each time some are done.

    Raises:
        ValueError: no images, or a log-likelihood of an autoencoder.
    """
    if autoencoder and samples:
        raise ValueError("a plain autoencoder has no posterior, and so no log-likelihood")
    model.eval()
    scores = _score(model, batches, samples, seed, autoencoder, progress)
    measured = Evaluation(
        images=len(scores.mu),
        reconstruction=scores.reconstruction.mean().item(),
        active_units=active_units(scores.mu),
        active_variance=ACTIVE_VARIANCE,
        linear_probe=_probe(model, scores.mu, labels, train_batches, train_labels),
    )
    return measured if autoencoder else _with_posterior(measured, scores, samples, seed)


class _Scores(NamedTuple):
    """Measures of N images, on the CPU: mu and log_var [N, latent_dim]; the others [N], float64."""

    mu: Tensor
    log_var: Tensor
    reconstruction: Tensor
    log_likelihood: Tensor  # [0] if not asked for


@torch.inference_mode()
def _score(
    model: VAE, batches: Batches, samples: int, seed: int, autoencoder: bool, progress: Progress | None
) -> _Scores:
    device = next(model.parameters()).device
    noise, importance = (torch.Generator(device).manual_seed(s) for s in derived_seeds(seed)[:2])
    rows = []
    for x in batches():
        mu, log_var = model.encode(x)
        output = model.decoder(mu if autoencoder else reparameterize(mu, log_var, noise))
        reconstruction = model.likelihood.negative_log_likelihood(x, output).double()
        if samples:
            estimate = log_likelihood(model, x, samples, importance, progress=progress)
        else:
            estimate = reconstruction.new_empty(0)
            if progress:
                progress(len(x))
        rows.append(_Scores(mu.cpu(), log_var.cpu(), reconstruction.cpu(), estimate.cpu()))
    if not rows:
        raise ValueError("there are no images to evaluate")
    return _Scores(*(torch.cat(column) for column in zip(*rows, strict=True)))


def _with_posterior(measured: Evaluation, scores: _Scores, samples: int, seed: int) -> Evaluation:
    """The same with what a posterior gives."""
    kls = kl_per_latent(scores.mu.double(), scores.log_var.double())
    elbos = -(scores.reconstruction + kls.sum(1))
    generator = torch.Generator().manual_seed(derived_seeds(seed)[2])
    return replace(
        measured,
        kl=kls.sum(1).mean().item(),
        elbo=elbos.mean().item(),
        elbo_quantiles=_quantiles(elbos),
        kl_per_latent=kls.mean(0).tolist(),
        aggregate=aggregate_posterior(scores.mu, scores.log_var, generator),
        log_likelihood=_mean(scores.log_likelihood, samples) if samples else None,
    )


def _quantiles(elbos: Tensor) -> dict[str, float]:
    levels = {"min": 0.0, **{f"{level:g}": level for level in QUANTILES}, "max": 1.0}
    return dict(zip(levels, np.quantile(elbos.numpy(), list(levels.values())).tolist(), strict=True))


def _mean(estimates: Tensor, samples: int) -> LogLikelihood:
    error = estimates.std().item() / len(estimates) ** 0.5 if len(estimates) > 1 else None
    return LogLikelihood(estimates.mean().item(), error, samples)


def _probe(
    model: VAE, mu: Tensor, labels: Labels | None, train_batches: Batches | None, train_labels: Labels | None
) -> LinearProbe:
    if labels is None or train_labels is None or train_batches is None:
        return LinearProbe(reason="needs labels of these images, and of training images apart from them")
    with torch.inference_mode():
        train_mu = torch.cat([model.encode(x)[0].cpu() for x in train_batches()])
    return linear_probe(train_mu, train_labels, mu, labels)
