"""The importance-weighted log-likelihood, 5,000 samples an image: ours against one image at a time.

One image at a time is how pythae's `get_nll` and others go: 50 batches of 100 latents for each image. The first of the
two loops here encodes an image once; the second encodes 100 copies of it for every batch, as pythae does, and takes the
cross-entropy of probabilities. The network is that of the IWAE paper (784-200-200-50 and back, tanh) with random
weights; the images are MNIST's test images, binarised. All three in one process, in turn; the figure is the median over
the rounds.

    python -m benchmarks.log_likelihood             MNIST in VAEPORT_DATA_ROOT, or random binary images
    python -m benchmarks.log_likelihood --full      also all 10,000 images, ours alone
    OMP_NUM_THREADS=1 python -m ...                 on a machine that is busy: threads that wait for each other spoil it
"""

import argparse
import gzip
import math
import resource
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from training.config import data_root
from training.estimators import log_likelihood
from training.model import VAE
from training.networks import NetworkSpec, glorot, mlp

ALL_IMAGES = 10_000
SAMPLES = 5000
DRAWS = 100  # a batch, one image at a time
ROUNDS = 7
IMAGES = 20  # a round, one at a time

Score = Callable[[VAE, Tensor], Tensor]


def main() -> None:
    """Run the three in turn and print the table."""
    parser = argparse.ArgumentParser(description="The log-likelihood of images by 5,000 samples each.")
    parser.add_argument("--full", action="store_true", help=f"also ours on all {ALL_IMAGES} images, with progress")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    model, x = iwae_net().to(options.device), test_images().to(options.device)
    where = f"{torch.get_num_threads()} threads" if options.device == "cpu" else torch.cuda.get_device_name()
    print(f"| {SAMPLES} samples, {where} | seconds per {ALL_IMAGES} images, median | min | max | nats |")
    print("|---|---|---|---|---|")
    seconds, means = measure(model, x)
    for name, measured in seconds.items():
        figures = " | ".join(f"{figure:.1f}" for figure in (statistics.median(measured), min(measured), max(measured)))
        print(f"| {name} | {figures} | {means[name]:.2f} |")
    medians = {name: statistics.median(measured) for name, measured in seconds.items()}
    print("\nratio: " + ", ".join(f"{medians[name] / medians['ours']:.2f} to {name}" for name in ONE_AT_A_TIME) + "\n")
    if options.full:
        full(model, x)


def iwae_net() -> VAE:
    """784-200-200-50 and back, tanh, with random weights."""
    torch.manual_seed(0)
    model = VAE(784, latent_dim=50, networks=mlp(NetworkSpec((1, 28, 28), 50, (200, 200), "tanh")))
    glorot(model)
    return model.eval()


def test_images() -> Tensor:
    """MNIST's test images, each pixel drawn; without them, random binary ones. [ALL_IMAGES, 784]."""
    file = data_root() / "MNIST" / "raw" / "t10k-images-idx3-ubyte.gz"
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.full((ALL_IMAGES, 784), 0.13)
    if file.is_file():
        pixels = np.frombuffer(gzip.decompress(file.read_bytes()), np.uint8, offset=16)
        probabilities = torch.from_numpy(pixels.reshape(ALL_IMAGES, 784) / np.float32(255))
    return (torch.rand(ALL_IMAGES, 784, generator=generator) < probabilities).float()


def measure(model: VAE, x: Tensor) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds per ALL_IMAGES, of each round, and the mean estimate, of each of the three."""
    images = IMAGES if x.device.type == "cpu" else 1000  # a GPU is through with a few before it has begun
    contenders = {"ours": (ours, images), **{name: (score, IMAGES) for name, score in ONE_AT_A_TIME.items()}}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    means = {}
    for score, _ in contenders.values():
        score(model, x[:2]).tolist()
    for _ in range(ROUNDS):
        for name, (score, count) in contenders.items():
            started = time.perf_counter()
            estimates = score(model, x[:count]).tolist()  # waits for the device
            seconds[name].append((time.perf_counter() - started) * ALL_IMAGES / count)
            means[name] = statistics.mean(estimates[:IMAGES])
    return seconds, means


def ours(model: VAE, x: Tensor) -> Tensor:
    """`training.estimators.log_likelihood`."""
    return log_likelihood(model, x, SAMPLES, torch.Generator(x.device).manual_seed(0))


@torch.inference_mode()
def encoded_once(model: VAE, x: Tensor) -> Tensor:
    """One image at a time, encoded once; batches of draws; the cross-entropy of logits."""
    estimates = []
    for image in x.split(1):  # type: ignore[no-untyped-call]
        mu, log_var = (t.expand(DRAWS, -1) for t in model.encode(image))
        copies = image.expand(DRAWS, -1)
        log_weights = []
        for _ in range(SAMPLES // DRAWS):
            z = mu + torch.exp(0.5 * log_var) * torch.randn_like(mu)
            cross_entropy = F.binary_cross_entropy_with_logits(model.decoder(z), copies, reduction="none").sum(1)
            log_weights.append(_log_prior_over_posterior(z, mu, log_var) - cross_entropy)
        estimates.append(torch.cat(log_weights).logsumexp(0) - math.log(SAMPLES))
    return torch.stack(estimates)


@torch.inference_mode()
def encoded_each_time(model: VAE, x: Tensor) -> Tensor:
    """One image at a time, as pythae: copies encoded for every batch; the cross-entropy of probabilities."""
    estimates = []
    for image in x.split(1):  # type: ignore[no-untyped-call]
        log_weights = []
        for _ in range(SAMPLES // DRAWS):
            copies = torch.cat(DRAWS * [image])
            mu, log_var = model.encode(copies)
            z = mu + torch.exp(0.5 * log_var) * torch.randn_like(mu)
            cross_entropy = F.binary_cross_entropy(model.decode(z), copies, reduction="none").sum(1)
            log_weights.append(_log_prior_over_posterior(z, mu, log_var) - cross_entropy)
        estimates.append(torch.cat(log_weights).logsumexp(0) - math.log(SAMPLES))
    return torch.stack(estimates)


ONE_AT_A_TIME: dict[str, Score] = {
    "one image at a time": encoded_once,
    "the same, encoding every copy": encoded_each_time,
}


def full(model: VAE, x: Tensor) -> None:
    """All images, and how much memory that took."""
    before, started = _peak_megabytes(x.device), time.perf_counter()
    with tqdm(total=len(x), unit="image") as bar:
        generator = torch.Generator(x.device).manual_seed(0)
        estimates = log_likelihood(model, x, SAMPLES, generator, progress=bar.update)
    mean = estimates.mean().item()
    print(
        f"all {len(x)} images, ours: {time.perf_counter() - started:.1f} s, {mean:.2f} nats; the peak of memory, "
        f"{before:.0f} MB, grew by {_peak_megabytes(x.device) - before:.0f} MB\n"
    )


def _log_prior_over_posterior(z: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
    posterior = -0.5 * (log_var + (z - mu) ** 2 / torch.exp(log_var)).sum(1)
    return -0.5 * (z**2).sum(1) - posterior


def _peak_megabytes(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    main()
