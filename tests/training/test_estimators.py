"""The log-likelihood against models whose likelihood is known, and its blocks against one sum over all samples."""

import math

import pytest
import torch
from torch import Tensor, nn

from tests.training.linear_gaussian import exact_log_likelihood, images, linear_gaussian
from training.estimators import BLOCK_PIXELS, QuickTanh, bernoulli_log_likelihood, block_rows, log_likelihood
from training.likelihood import Bernoulli, Gaussian, Likelihood
from training.model import VAE
from training.networks import NetworkSpec, mlp
from training.objective import Objective, log_prior_over_posterior


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small_model(likelihood: Likelihood, activation: str = "relu") -> VAE:
    """A network of 12 pixels and 3 latents with random weights, in float64."""
    torch.manual_seed(0)
    networks = mlp(NetworkSpec((1, 3, 4), 3, (8, 8), activation))
    return VAE(12, latent_dim=3, networks=networks, likelihood=likelihood).double().eval()


def binary_images(count: int, pixels: int = 12) -> Tensor:
    return (torch.rand(count, pixels, generator=seeded(5)) < 0.3).double()


class Recorder(nn.Module):
    """A decoder that notes how many rows it is given."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder
        self.rows: list[int] = []

    def forward(self, z: Tensor) -> Tensor:
        self.rows.append(len(z))
        output: Tensor = self.decoder(z)
        return output


def test_one_sample_is_exact_where_q_is_the_true_posterior() -> None:
    model, x = linear_gaussian(exact=True), images(20)
    expected = torch.from_numpy(exact_log_likelihood(model, x))
    torch.testing.assert_close(log_likelihood(model, x, 1, seeded()), expected, rtol=1e-10, atol=1e-10)


def test_5000_samples_come_within_a_twentieth_of_a_nat_where_q_is_wrong() -> None:
    model, x = linear_gaussian(exact=False), images(20)
    truth = torch.from_numpy(exact_log_likelihood(model, x))
    one, many = (log_likelihood(model, x, samples, seeded()) for samples in (1, 5000))
    assert (one - truth).abs().max() > 0.5  # so that it is the samples that do it
    assert (many - truth).abs().max() < 0.05


def test_the_mean_estimate_is_below_the_truth_and_rises_with_the_samples() -> None:
    model, x = linear_gaussian(exact=False), images(1)
    truth = exact_log_likelihood(model, x).item()
    copies = x.expand(20_000, -1)
    estimates = [log_likelihood(model, copies, samples, seeded(samples)) for samples in (1, 4, 16, 64)]
    means = [estimate.mean().item() for estimate in estimates]
    errors = [estimate.std().item() / len(copies) ** 0.5 for estimate in estimates]
    for mean, error, above in zip(means, errors, [*means[1:], truth], strict=True):
        assert mean + 5 * error < above


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("likelihood", [Bernoulli(), Gaussian("fixed", 0.4)])
@pytest.mark.parametrize(("samples", "sizes"), [(20, (6, 7, 7)), (3, (3,)), (14, (7, 7))])
def test_blocks_add_up_to_one_sum_over_all_samples(
    activation: str, likelihood: Likelihood, samples: int, sizes: tuple[int, ...]
) -> None:
    model, x = small_model(likelihood, activation), binary_images(1)
    mu, log_var = model.encode(x)
    noise = seeded()
    epsilon = torch.cat([torch.randn(size, *mu.shape, generator=noise, dtype=mu.dtype) for size in sizes])
    z = mu + torch.exp(0.5 * log_var) * epsilon
    output = model.decoder(z.flatten(0, 1)).view(samples, 1, -1)
    log_weights = log_prior_over_posterior(z, mu, log_var) - model.likelihood.negative_log_likelihood(x, output)
    expected = torch.logsumexp(log_weights, 0) - math.log(samples)
    found = log_likelihood(model, x, samples, seeded(), max_rows=7)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("count", "samples", "most"), [(5, 23, 7), (5, 3, 7), (9, 1, 4), (4, 8, 8), (3, 2, 1)])
def test_no_block_is_larger_than_asked_for_and_all_samples_are_drawn(count: int, samples: int, most: int) -> None:
    model = small_model(Bernoulli())
    model.decoder = recorder = Recorder(model.decoder)
    done: list[int] = []
    estimates = log_likelihood(
        model, binary_images(count), samples, seeded(), max_rows=most, progress=lambda images: done.append(images)
    )
    assert max(recorder.rows) <= most
    assert sum(recorder.rows) == count * samples
    assert sum(done) == count == len(estimates)


def test_rows_fill_a_block_whatever_the_size_of_the_images() -> None:
    device = torch.device("cpu")
    for pixels in (64, 784, 3072):
        assert BLOCK_PIXELS["cpu"] - pixels < block_rows(pixels, device) * pixels <= BLOCK_PIXELS["cpu"]
    assert block_rows(2**30, device) == 1


def test_an_image_in_a_batch_has_the_estimate_it_has_alone_up_to_its_noise() -> None:
    model, x = small_model(Bernoulli()), binary_images(6)
    together = log_likelihood(model, x, 4000, seeded())
    alone = torch.cat([log_likelihood(model, row[None], 4000, seeded(i)) for i, row in enumerate(x)])
    torch.testing.assert_close(together, alone, rtol=0, atol=0.05)
    assert together.std() > 0.2  # the images differ by more than that


def test_the_seed_decides_and_the_global_generator_is_left_alone() -> None:
    model, x = small_model(Bernoulli()), binary_images(3)
    before = torch.get_rng_state()
    first, again, other = (log_likelihood(model, x, 5, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


def test_for_binary_data_elbo_log_likelihood_and_zero_are_in_that_order() -> None:
    model, x = small_model(Bernoulli()), binary_images(30)
    epsilon = torch.randn(5000, len(x), model.latent_dim, dtype=torch.float64, generator=seeded())
    with torch.no_grad():
        elbos = -torch.stack(
            [Objective(samples=5000)(model, x[i : i + 1], epsilon[:, i : i + 1]).loss for i in range(30)]
        )
    estimates = log_likelihood(model, x, 5000, seeded())
    assert (elbos < estimates).all()
    assert (estimates < 0).all()


def test_weights_that_no_float_could_hold_still_add_up() -> None:
    model, x = small_model(Gaussian("fixed", 0.003)), binary_images(2)
    estimates = log_likelihood(model, x, 50, seeded(), max_rows=7)
    assert estimates.isfinite().all()
    assert (estimates < -10_000).all()


@pytest.mark.parametrize("pixels", [784, 30, 7, 1])
@pytest.mark.parametrize("scale", [0.1, 10.0, 1000.0])
def test_the_bernoulli_path_is_the_reference(pixels: int, scale: float) -> None:
    logits = scale * torch.randn(4, 3, pixels, dtype=torch.float64, generator=seeded())
    for x in (torch.rand(3, pixels, dtype=torch.float64, generator=seeded(1)), binary_images(3, pixels)):
        expected = -Bernoulli().negative_log_likelihood(x, logits)
        torch.testing.assert_close(bernoulli_log_likelihood(x, logits), expected, rtol=1e-12, atol=1e-12)


def test_in_float32_the_bernoulli_path_is_as_exact_as_the_reference() -> None:
    logits = 10 * torch.randn(200, 3, 784, dtype=torch.float64, generator=seeded())
    x = binary_images(3, 784)
    exact = -Bernoulli().negative_log_likelihood(x, logits)
    found = bernoulli_log_likelihood(x.float(), logits.float())
    reference = -Bernoulli().negative_log_likelihood(x.float(), logits.float())
    assert (found - exact).abs().max() < 2 * (reference - exact).abs().max()


def test_the_quick_tanh_is_as_exact_as_numbers_around_one() -> None:
    x = torch.linspace(-30.0, 30.0, 10_001)
    assert (QuickTanh()(x) - torch.tanh(x.double())).abs().max() < 2 * torch.finfo(torch.float32).eps


def test_the_model_keeps_its_own_tanh() -> None:
    model = small_model(Bernoulli(), "tanh")
    log_likelihood(model, binary_images(2), 5, seeded())
    assert sum(isinstance(module, nn.Tanh) for module in model.modules()) == 4


def test_without_samples_or_rows_there_is_no_estimate() -> None:
    model, x = small_model(Bernoulli()), binary_images(2)
    with pytest.raises(ValueError, match="at least 1 sample and 1 row, got 0 and"):
        log_likelihood(model, x, 0, seeded())
    with pytest.raises(ValueError, match="got 5 and 0"):
        log_likelihood(model, x, 5, seeded(), max_rows=0)
