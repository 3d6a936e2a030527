from __future__ import annotations

import torch
from torch.distributions import Independent, MixtureSameFamily, Normal
from torch.distributions.categorical import Categorical

from lvtrain.modules.latent import MixturePrior, gaussian_log_density, on_sphere


def test_codes_lie_on_the_unit_sphere() -> None:
    c = on_sphere(torch.randn(50, 7))
    torch.testing.assert_close(c.norm(dim=1), torch.ones(50))


def test_the_sphere_is_guarded_at_the_origin() -> None:
    h = torch.zeros(2, 3, requires_grad=True)
    on_sphere(h).sum().backward()
    assert h.grad is not None and h.grad.isfinite().all()


def test_gaussian_density_agrees_with_torch() -> None:
    mu, logvar, z = torch.randn(3, 4, 5, dtype=torch.float64)
    expected = Independent(Normal(mu, (0.5 * logvar).exp()), 1).log_prob(z)
    torch.testing.assert_close(gaussian_log_density(z, mu, logvar), expected)


def prior() -> tuple[MixturePrior, MixtureSameFamily]:
    torch.manual_seed(0)
    made = MixturePrior(3, 4).double()
    with torch.no_grad():
        made.mean.normal_(0, 2)
        made.logvar.normal_()
        made.weight.normal_()
    components = Independent(Normal(made.mean, (0.5 * made.logvar).exp()), 1)
    return made, MixtureSameFamily(Categorical(logits=made.weight), components)


def test_mixture_density_agrees_with_torch() -> None:
    made, expected = prior()
    z = torch.randn(6, 3, dtype=torch.float64)
    torch.testing.assert_close(made.log_density(z), expected.log_prob(z))


def test_mixture_samples_have_the_mean_and_variance_of_the_mixture() -> None:
    made, expected = prior()
    n = 200_000
    z = made.sample(torch.randn(n, 3, dtype=torch.float64), torch.rand(n))
    torch.testing.assert_close(z.mean(0), expected.mean, atol=0.05, rtol=0)
    torch.testing.assert_close(z.var(0), expected.variance, rtol=0.05, atol=0.05)
