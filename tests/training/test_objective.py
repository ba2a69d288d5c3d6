"""The objective against Monte Carlo, against torch's own distributions, and against itself on logits."""

import math

import pytest
import torch
from torch import distributions
from torch.distributions import Normal
from torch.distributions import kl_divergence as reference_kl

from training import kl_divergence, reparameterize, vae_loss
from training.likelihood import Bernoulli, Gaussian


@pytest.fixture
def posterior() -> tuple[torch.Tensor, torch.Tensor]:
    noise = torch.Generator().manual_seed(0)
    return torch.randn(6, 4, generator=noise).double(), torch.randn(6, 4, generator=noise).double()


def test_the_kl_is_that_of_torch_s_distributions(posterior: tuple[torch.Tensor, torch.Tensor]) -> None:
    mu, log_var = posterior
    expected = reference_kl(Normal(mu, (0.5 * log_var).exp()), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(kl_divergence(mu, log_var), expected)


def test_the_kl_is_the_mean_log_ratio_over_draws(posterior: tuple[torch.Tensor, torch.Tensor]) -> None:
    mu, log_var = (t[:, None].expand(-1, 200_000, -1) for t in posterior)
    z = reparameterize(mu, log_var, torch.Generator().manual_seed(1))
    ratio = (Normal(mu, (0.5 * log_var).exp()).log_prob(z) - Normal(0.0, 1.0).log_prob(z)).sum(2)  # type: ignore[no-untyped-call]
    error = ratio.std(1) / ratio.shape[1] ** 0.5
    assert ((ratio.mean(1) - kl_divergence(*posterior)).abs() < 5 * error).all()


def test_the_kl_is_zero_at_the_prior_and_nowhere_negative() -> None:
    assert kl_divergence(torch.zeros(3, 2), torch.zeros(3, 2)).tolist() == [0, 0, 0]
    noise = torch.Generator().manual_seed(0)
    values = kl_divergence(torch.randn(1000, 5, generator=noise), torch.randn(1000, 5, generator=noise))
    assert (values >= 0).all()


def test_gradients_of_a_draw_are_one_and_epsilon() -> None:
    mu = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    sigma = torch.full((3, 2), 0.5, dtype=torch.float64, requires_grad=True)
    z = reparameterize(mu, 2 * sigma.log(), torch.Generator().manual_seed(0))
    epsilon = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    by_mu, by_sigma = torch.autograd.grad(z.sum(), (mu, sigma))
    assert torch.equal(by_mu, torch.ones_like(mu))
    torch.testing.assert_close(by_sigma, epsilon)


def test_the_loss_sums_pixels_and_latents_and_averages_the_batch(posterior: tuple[torch.Tensor, torch.Tensor]) -> None:
    mu, log_var = posterior
    noise = torch.Generator().manual_seed(2)
    x = torch.rand(6, 1, 3, 3, generator=noise).double()
    p = torch.rand(6, 9, generator=noise).double()
    by_hand = []
    for i in range(6):
        cross_entropy = -(x[i].flatten() * p[i].log() + (1 - x[i].flatten()) * (1 - p[i]).log()).sum()
        kl = -0.5 * (1 + log_var[i] - mu[i] ** 2 - log_var[i].exp()).sum()
        by_hand.append(cross_entropy + kl)
    torch.testing.assert_close(vae_loss(x, p, mu, log_var), torch.stack(by_hand).mean())


def test_the_twin_on_logits_equals_the_loss_on_probabilities(posterior: tuple[torch.Tensor, torch.Tensor]) -> None:
    mu, log_var = posterior
    noise = torch.Generator().manual_seed(3)
    x, logits = torch.rand(6, 9, generator=noise).double(), 5 * torch.randn(6, 9, generator=noise).double()
    reconstruction = Bernoulli().negative_log_likelihood(x, logits).mean()
    torch.testing.assert_close(
        reconstruction + kl_divergence(mu, log_var).mean(), vae_loss(x, torch.sigmoid(logits), mu, log_var)
    )


def test_the_twin_is_exact_where_probabilities_saturate() -> None:
    x, logits = torch.tensor([[0.0, 1.0]]), torch.tensor([[200.0, -300.0]])
    assert Bernoulli().negative_log_likelihood(x, logits).item() == 500.0


def test_for_binary_data_the_reconstruction_is_a_bernoulli_log_likelihood() -> None:
    x, logits = torch.tensor([[1.0, 0.0, 1.0]]), torch.tensor([[0.3, -2.0, 4.0]])
    expected = distributions.Bernoulli(logits=logits).log_prob(x).sum(1)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(-Bernoulli().negative_log_likelihood(x, logits), expected)


def test_the_kl_is_not_negative_where_single_precision_would_round_it_there() -> None:
    log_var = torch.linspace(-1e-3, 1e-3, 2001)[:, None]
    assert kl_divergence(torch.zeros_like(log_var), log_var).min() >= 0


def test_a_sigma_below_its_floor_counts_as_the_floor_and_can_come_back() -> None:
    gaussian = Gaussian("learned", sigma=1e-3)
    x, output = torch.full((2, 1, 2, 2), 0.5), torch.zeros(2, 4)
    loss = gaussian.negative_log_likelihood(x, output).sum()
    assert gaussian.sigma == pytest.approx(math.exp(-6.0))
    assert loss.item() == pytest.approx(2 * 4 * (0.125 / math.exp(-12.0) - 6.0 + 0.5 * math.log(2 * math.pi)), rel=1e-5)
    loss.backward()  # type: ignore[no-untyped-call]
    assert gaussian.log_sigma.grad is not None
    assert gaussian.log_sigma.grad < 0  # upwards
