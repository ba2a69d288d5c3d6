"""P6: the ELBO of an image, from encoder through latent to decoder, is the same in every runtime.

    ELBO(x) = log p(x|z) - KL(q(z|x) || N(0, I)),   z = mean + exp(log_var / 2) epsilon, with one fixed epsilon

from the logits of a Bernoulli likelihood, or the mean and sigma of a Gaussian one (training.objective has the sources).
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from export.inputs import SEED, Rows
from export.ladder import Subject
from export.limits import FLOAT32, LAMBDA, UNIT, Doubles, Rounding
from export.parity import Report, compare
from export.runtimes import Runtime
from export.truth import DoubleGraph
from vaeport.manifest import ModelSpec
from vaeport.package import has_bytes, role_of
from vaeport.scoring import kl_divergence, log_density


def end_metric(encoder: Subject, decoder: Subject, model: ModelSpec, images: Rows, name: str = "real") -> Report:
    """The ELBO of each image, by each runtime that has both graphs, against the one in float64.

    Args:
        encoder, decoder: the graphs, of one precision.
        model: of the manifest.
        images: [rows, C, H, W] in [0, 1].
        name: of these images.
    """
    epsilon = _epsilon(images, model)
    roundings = {runtime.float32 for runtime in encoder.runtimes}
    truths = {rounding: _truth(encoder, decoder, model, images, epsilon, rounding) for rounding in roundings}
    graph = encoder.name.replace(encoder.role, "both")
    report = Report()
    decoders = {runtime.name: runtime for runtime in decoder.runtimes}
    for runtime in (runtime for runtime in encoder.runtimes if runtime.name in decoders):
        found = _in_runtime(runtime, decoders[runtime.name], model, images, epsilon)
        truth, limit = truths[runtime.float32]
        where = {"rung": "P6", "graph": graph, "runtime": runtime.name, "input": name, "batch": len(images)}
        report.add(compare(where, ["elbo"], [found], [truth], [limit]))
    return report


def pairs(subjects: Mapping[str, Subject]) -> list[tuple[Subject, Subject]]:
    """Encoder and decoder of each precision. Those with uint8 edges are left out: bytes have no logits."""
    encoders = [name for name in subjects if role_of(name) == "encoder" and not has_bytes(name)]
    return [(subjects[name], subjects[name.replace("encoder", "decoder")]) for name in encoders]


def exact_elbo(encoder: Subject, decoder: Subject, model: ModelSpec, images: Rows) -> Doubles:
    """The ELBO of each image in float64, in nats [rows], with the same epsilon for every pair of graphs."""
    return _truth(encoder, decoder, model, images, _epsilon(images, model))[0]


def elbo(model: ModelSpec, images: Doubles, mean: Doubles, log_var: Doubles, parameters: Doubles) -> Doubles:
    """In nats, [rows], from images [rows, pixels], mean and log_var [rows, latent_dim], parameters [rows, pixels]."""
    return np.asarray(log_density(model, images, parameters) - kl_divergence(mean, log_var))


def _epsilon(images: Rows, model: ModelSpec) -> Doubles:
    return np.random.default_rng(SEED).standard_normal((len(images), model.latent_dim))


def _latents(mean: NDArray[np.floating], log_var: NDArray[np.floating], epsilon: Doubles) -> Doubles:
    return np.asarray(mean + np.exp(0.5 * np.asarray(log_var, np.float64)) * epsilon)


def _in_runtime(encoder: Runtime, decoder: Runtime, model: ModelSpec, images: Rows, epsilon: Doubles) -> Doubles:
    mean, log_var = (np.asarray(output, np.float64) for output in encoder.run(images))
    _, parameters = decoder.run(_latents(mean, log_var, epsilon).astype(np.float32))
    return elbo(model, _flat([images])[0], mean, log_var, _flat([parameters])[0])


def _truth(
    encoder: Subject, decoder: Subject, model: ModelSpec, images: Rows, epsilon: Doubles, float32: Rounding = FLOAT32
) -> tuple[Doubles, Doubles]:
    """The ELBO in float64, and the limit of a runtime: to first order, the deviations of all it is computed from."""
    posterior = DoubleGraph(encoder.proto, float32).judge(images)
    (mean, log_var), (s_mean, s_log_var) = posterior.truth, posterior.deviation
    latents = _latents(mean, log_var, epsilon)
    s_latents = np.sqrt(s_mean**2 + ((latents - mean) / 2 * s_log_var) ** 2 + (UNIT * latents) ** 2)
    decoded = DoubleGraph(decoder.proto, float32).judge(latents, s_latents)
    x, parameters, s_parameters = _flat([images, decoded.truth[1], decoded.deviation[1]])
    slope = _slope(model, x, parameters)
    # One latent moves all pixels, so their errors are not independent: absolute values, not squares.
    kl = (np.abs(mean) * s_mean + 0.5 * np.abs(np.exp(log_var) - 1.0) * s_log_var).sum(1)
    limit = LAMBDA * ((np.abs(slope) * s_parameters).sum(1) + kl)
    return elbo(model, x, mean, log_var, parameters), limit


def _slope(model: ModelSpec, x: Doubles, parameters: Doubles) -> Doubles:
    """The derivative of log p(x|z) by each parameter."""
    if model.likelihood == "bernoulli":
        return np.asarray(x - np.exp(-np.logaddexp(0.0, -parameters)))
    assert model.sigma is not None  # the reader's rule for a Gaussian likelihood
    return np.asarray((x - parameters) / model.sigma**2)


def _flat(tensors: Sequence[NDArray[np.floating]]) -> list[Doubles]:
    return [np.asarray(tensor, np.float64).reshape(len(tensor), -1) for tensor in tensors]
