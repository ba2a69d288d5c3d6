"""The bounds against a model whose likelihood is known, their gradients against each other, the KL against draws."""

from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from tests.training.linear_gaussian import LATENTS, exact_log_likelihood, images, linear_gaussian
from training.model import VAE
from training.networks import NETWORKS, NetworkSpec
from training.objective import Objective, Terms, kl_divergence, kl_per_latent, reparameterize


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def terms(model: VAE, objective: Objective, x: Tensor, seed: int = 0, beta: float = 1.0) -> Terms:
    return objective(model, x, normal(objective.samples, len(x), LATENTS, seed=seed), beta)


def test_the_kl_is_the_mean_log_ratio_over_draws() -> None:
    mu, log_var = normal(6, 4), normal(6, 4, seed=1)
    draws = 200_000
    z = reparameterize(mu.expand(draws, 6, 4), log_var.expand(draws, 6, 4), torch.Generator().manual_seed(2))
    posterior, prior = Normal(mu, (0.5 * log_var).exp()), Normal(0.0, 1.0)
    ratios = posterior.log_prob(z) - prior.log_prob(z)  # type: ignore[no-untyped-call]
    errors = ratios.std(0) / draws**0.5
    assert ((ratios.mean(0) - kl_per_latent(mu, log_var)).abs() < 5 * errors).all()
    assert errors.max() < 0.05


def test_a_draw_moves_by_one_with_mu_and_by_epsilon_with_sigma() -> None:
    mu = normal(3, 2).requires_grad_()
    sigma = torch.ones(3, 2, dtype=torch.float64, requires_grad=True)
    z = reparameterize(mu, 2.0 * sigma.log(), torch.Generator().manual_seed(1))
    by_mu, by_sigma = torch.autograd.grad(z.sum(), (mu, sigma))
    assert torch.equal(by_mu, torch.ones_like(mu))
    assert torch.equal(by_sigma, normal(3, 2, seed=1))


def test_a_draw_moves_by_epsilon_with_any_sigma() -> None:
    sigma = normal(3, 2).exp().requires_grad_()
    z = reparameterize(torch.zeros_like(sigma), 2.0 * sigma.log(), torch.Generator().manual_seed(1))
    (by_sigma,) = torch.autograd.grad(z.sum(), (sigma,))
    torch.testing.assert_close(by_sigma, normal(3, 2, seed=1), rtol=1e-14, atol=0)


def test_bounds_rise_with_their_samples_and_stay_below_the_likelihood() -> None:
    model, copies = linear_gaussian(exact=False), 20_000
    x = images(1)
    truth = exact_log_likelihood(model, x).item()
    estimates = []
    with torch.no_grad():
        for objective in (Objective("elbo"), Objective("iwae", 2), Objective("iwae", 8), Objective("iwae", 32)):
            rows = [
                -terms(model, objective, x.expand(copies // 20, -1), seed).loss / (copies // 20) for seed in range(20)
            ]
            estimates.append(torch.stack(rows))
    means = [estimate.mean().item() for estimate in estimates]
    errors = [estimate.std().item() / 20**0.5 for estimate in estimates]
    for mean, error, above in zip(means, errors, [*means[1:], truth], strict=True):
        assert mean + 5 * error < above


def test_the_bound_of_one_sample_is_the_elbo() -> None:
    model, x = linear_gaussian(exact=False), images(1).expand(100_000, -1)
    with torch.no_grad():
        elbo, iwae = (-terms(model, bound, x).loss.item() / len(x) for bound in (Objective("elbo"), Objective("iwae")))
    assert elbo == pytest.approx(iwae, abs=0.02)


def test_all_bounds_are_the_likelihood_where_q_is_the_true_posterior() -> None:
    model, x = linear_gaussian(exact=True), images(8)
    truth = exact_log_likelihood(model, x).sum()
    for objective in (Objective("iwae", 1), Objective("iwae", 7), Objective("dreg", 7)):
        assert -terms(model, objective, x).loss.item() == pytest.approx(truth, rel=1e-12)


@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_dreg_has_the_loss_and_the_decoder_s_gradient_of_iwae(beta: float) -> None:
    model, x = linear_gaussian(exact=False), images(8)
    losses, gradients = [], []
    for objective in (Objective("iwae", 5), Objective("dreg", 5)):
        loss = terms(model, objective, x, beta=beta).loss
        losses.append(loss.detach())
        gradients.append(torch.autograd.grad(loss, list(model.decoder.parameters())))
    torch.testing.assert_close(*losses, rtol=1e-12, atol=0)
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


def encoder_gradients(objective: Objective, beta: float, copies: int) -> Tensor:
    """[30 draws, parameters of the encoder], each the mean over `copies` of a few images."""
    model, x = linear_gaussian(exact=False), images(4).repeat(copies, 1)
    parameters = list(model.encoder.parameters())
    rows = []
    for seed in range(30):
        gradients = torch.autograd.grad(terms(model, objective, x, seed, beta).loss / len(x), parameters)
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    return torch.stack(rows)


@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_dreg_s_gradient_for_the_encoder_is_that_of_iwae_in_the_mean(beta: float) -> None:
    iwae, dreg = (encoder_gradients(bound, beta, copies=300) for bound in (Objective("iwae", 5), Objective("dreg", 5)))
    difference = iwae - dreg
    errors = difference.std(0) / len(difference) ** 0.5
    assert (difference.mean(0).abs() < 5 * errors).all()
    assert 5 * errors.norm() < 0.25 * iwae.mean(0).norm()  # so that a wrong gradient would be seen


def test_dreg_s_gradient_for_the_encoder_varies_less() -> None:
    iwae, dreg = (encoder_gradients(bound, 1.0, copies=20) for bound in (Objective("iwae", 64), Objective("dreg", 64)))
    assert dreg.var(0).sum() < 0.2 * iwae.var(0).sum()


def test_beta_weighs_the_kl_term() -> None:
    model, x = linear_gaussian(exact=False), images(8)
    found = terms(model, Objective(), x, beta=0.3)
    kl = kl_divergence(*model.encode(x)).sum()
    torch.testing.assert_close(found.kl, kl)
    torch.testing.assert_close(found.loss, found.reconstruction + 0.3 * kl)


def test_free_bits_charge_each_latent_at_least_so_much() -> None:
    model, x = linear_gaussian(exact=False), images(8)
    first, second = kl_per_latent(*model.encode(x)).mean(0).tolist()
    lambda_ = (first + second) / 2
    found = terms(model, Objective(free_bits=lambda_), x, beta=0.5)
    charged = 8 * (lambda_ + max(first, second))
    torch.testing.assert_close(found.loss, found.reconstruction + 0.5 * charged)
    torch.testing.assert_close(found.kl.item(), 8 * (first + second))


@pytest.mark.parametrize("capacity", [0.0, 0.5, 25.0])
def test_capacity_pulls_the_kl_from_both_sides(capacity: float) -> None:
    model, x = linear_gaussian(exact=False), images(8)
    found = Objective(gamma=7.0)(model, x, normal(1, 8, LATENTS), capacity=capacity)
    kl = kl_divergence(*model.encode(x)).mean()
    assert 0.5 < kl < 25.0
    torch.testing.assert_close(found.loss, found.reconstruction + 8 * 7.0 * (kl - capacity).abs())


@pytest.mark.parametrize("network", sorted(NETWORKS))
@pytest.mark.parametrize("bound", ["elbo", "iwae", "dreg"])
def test_no_rows_are_no_loss_and_no_gradient(network: str, bound: Literal["elbo", "iwae", "dreg"]) -> None:
    model = VAE(64, latent_dim=3, networks=NETWORKS[network](NetworkSpec((1, 8, 8), 3, (5,))))
    found = Objective(bound, 2)(model, torch.zeros(0, 1, 8, 8), torch.zeros(2, 0, 3))
    assert [term.item() for term in found] == [0.0, 0.0, 0.0]
    found.loss.backward()  # type: ignore[no-untyped-call]
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert not parameter.grad.any()


@pytest.mark.parametrize("bound", ["elbo", "iwae", "dreg"])
def test_under_autocast_the_terms_are_float32(bound: Literal["elbo", "iwae", "dreg"]) -> None:
    torch.manual_seed(0)
    model, x = VAE(64, 32, 20), torch.rand(128, 64, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16):
        found = Objective(bound, 2)(model, x, normal(2, 128, 20).float())
        mu, log_var = model.encode(x)
    assert mu.dtype == torch.bfloat16
    assert {term.dtype for term in found} == {torch.float32}
    torch.testing.assert_close(found.kl, kl_divergence(mu.float(), log_var.float()).sum())
