from __future__ import annotations

import pytest
import torch

from lvtrain.modules.latent import MixturePrior
from lvtrain.objectives.divergence import KLConfig, kl_term, mixture_kl


def test_the_weight_rises_linearly_and_stays() -> None:
    config = KLConfig(beta=0.5, anneal="linear", anneal_steps=100)
    assert [config.weight(s) for s in (0, 50, 100, 1000)] == [0.0, 0.25, 0.5, 0.5]


def test_the_sigmoid_is_half_way_at_its_step() -> None:
    config = KLConfig(anneal="sigmoid", anneal_steps=100)
    assert config.weight(100) == 0.5
    assert config.weight(0) < 0.01 and config.weight(300) > 0.99


def test_without_annealing_the_weight_is_beta() -> None:
    assert KLConfig(beta=2.0, anneal="none").weight(0) == 2.0


def test_free_bits_per_dimension_count_each_dimension() -> None:
    kl = torch.tensor([[0.1, 2.0], [0.3, 4.0]])
    config = KLConfig(free_bits=0.5)
    assert kl_term(kl, config).item() == pytest.approx(0.5 + 3.0)


def test_free_bits_in_total_count_the_sum() -> None:
    kl = torch.tensor([[0.1, 0.2], [0.3, 0.4]])
    assert kl_term(kl, KLConfig(free_bits=3.0, free_bits_per="total")).item() == 3.0
    assert kl_term(kl, KLConfig(free_bits=0.1, free_bits_per="total")).item() == pytest.approx(0.5)


def test_a_free_dimension_has_no_gradient() -> None:
    kl = torch.tensor([[0.1, 2.0]], requires_grad=True)
    kl_term(kl, KLConfig(free_bits=0.5)).backward()
    assert kl.grad is not None and kl.grad.tolist() == [[0.0, 1.0]]


def test_the_mixture_kl_is_unbiased_against_the_closed_form() -> None:
    """With one component the estimate's mean is the Gaussian KL."""
    torch.manual_seed(0)
    mu, logvar = torch.tensor([[0.5, -1.0]]), torch.tensor([[0.2, -0.7]])
    z = mu + (0.5 * logvar).exp() * torch.randn(200_000, 2)
    exact = 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum()
    estimate = mixture_kl(z, mu, logvar, MixturePrior(2, 1)).mean()
    assert abs(estimate - exact) < 0.01


def test_an_estimate_below_zero_is_kept_where_nothing_is_free() -> None:
    estimates = torch.tensor([0.5, -2.5])
    assert kl_term(estimates, KLConfig()).item() == -1.0
    assert kl_term(estimates, KLConfig(free_bits=0.1)).item() == pytest.approx(0.1)
