"""What the latents of a model hold, from the posteriors of many images. In nats.

The KL term splits in two (Hoffman and Johnson, "ELBO surgery", 2016; Dieng et al., arXiv 1807.04863):

    mean_n KL(q(z|x_n) || p(z)) = I(n; z) + KL(q(z) || p(z)),   q(z) = mean_n q(z|x_n)
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.objective import kl_divergence, reparameterize

ACTIVE_VARIANCE = 0.01  # Burda et al., arXiv 1509.00519, section 5.2
AGGREGATE_IMAGES = 10_000
AGGREGATE_BLOCK = 500  # draws that are compared with all posteriors at a time: 40 MB
PROBE_ITERATIONS = 1000
NUMBERED_IMAGES = 20  # labels of fewer images say nothing about what they are

Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Aggregate:
    """The two parts of the KL term, estimated from one draw of each posterior.

    Attributes:
        mutual_information: I(n; z), between an image and its latent. Never above log(images), so it is too low for a
            model that tells more images apart than these.
        kl: KL(q(z) || p(z)), how far the aggregate posterior is from the prior; too high by as much as the other is too
            low, and by chance a little below 0 where q(z) is the prior.
        images: the number of posteriors.
    """

    mutual_information: float
    kl: float
    images: int


@dataclass(frozen=True, slots=True)
class LinearProbe:
    """How well a linear classifier reads the labels off the posterior means.

    Attributes:
        accuracy: a share of the images that are scored; None with a `reason`.
        chance: the share of their most frequent label.
        trained_on: number of images.
        reason: why there is no accuracy.
    """

    accuracy: float | None = None
    chance: float | None = None
    trained_on: int = 0
    reason: str | None = None


def active(mu: Tensor) -> Tensor:
    """Which latents have a posterior mean, [N, latent_dim], that varies over the images above ACTIVE_VARIANCE."""
    return mu.double().var(0, correction=0) > ACTIVE_VARIANCE


def active_units(mu: Tensor) -> int:
    """The number of latents that are `active`."""
    return int(active(mu).sum())


def aggregate_posterior(mu: Tensor, log_var: Tensor, generator: torch.Generator) -> Aggregate:
    """The mutual information and the distance of q(z) from the prior N(0, I).

    Args:
        mu, log_var: [N, latent_dim]. Of more than AGGREGATE_IMAGES images, that many are drawn.
        generator: draws that choice and the latents, on the CPU.
    """
    chosen = torch.randperm(len(mu), generator=generator)[:AGGREGATE_IMAGES]
    mu, log_var = mu[chosen].double(), log_var[chosen].double()
    z = reparameterize(mu, log_var, generator)
    ratios = []  # log q(z_n|x_n) - log q(z_n)
    for start in range(0, len(z), AGGREGATE_BLOCK):
        densities = _log_densities(z[start : start + AGGREGATE_BLOCK], mu, log_var)
        ratios.append(densities.diagonal(start) - densities.logsumexp(1) + math.log(len(z)))
    information = torch.cat(ratios).mean().item()
    return Aggregate(information, kl_divergence(mu, log_var).mean().item() - information, len(z))


def linear_probe(train_mu: Tensor, train_labels: Labels, mu: Tensor, labels: Labels) -> LinearProbe:
    """Logistic regression on standardised posterior means.

    Args:
        train_mu, train_labels: to fit it on, [N, latent_dim] and [N]; the label -1 is none, such images are left out.
        mu, labels: to score it on.
    """
    # Not at the top: it takes a second, and training needs the rest of this module.
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    known, train_known = labels >= 0, train_labels >= 0
    if not known.any() or not train_known.any():
        return LinearProbe(reason="no image has a label")
    classes = len(np.unique(train_labels[train_known]))
    if classes < 2:
        return LinearProbe(reason="all labels are the same")
    if classes > max(NUMBERED_IMAGES, train_known.sum()) / 2:
        return LinearProbe(reason=f"{classes} labels of {train_known.sum()} images are numbers, not classes")
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=PROBE_ITERATIONS))
    classifier.fit(train_mu.double().numpy()[train_known], train_labels[train_known])
    return LinearProbe(
        accuracy=float(classifier.score(mu.double().numpy()[known], labels[known])),
        chance=float(np.unique_counts(labels[known]).counts.max() / known.sum()),
        trained_on=int(train_known.sum()),
    )


def _log_densities(z: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
    """log q(z_m|x_n) of draws [M, latent_dim] under N posteriors, [M, N], but for the constant: two matrix products."""
    precision = torch.exp(-log_var)
    squares = z.square() @ precision.T - 2.0 * z @ (precision * mu).T + (precision * mu.square()).sum(1)
    return -0.5 * (squares + log_var.sum(1))
