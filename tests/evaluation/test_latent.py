from __future__ import annotations

import math

import pytest
import torch

from lvtrain.data.batches import Batch, sequential
from lvtrain.evaluation.latent import (
    Posteriors,
    active_units,
    bound,
    frechet_distance,
    importance_weighted,
    log_weights,
    mutual_information,
    posteriors,
)
from lvtrain.evaluation.sentences import FlatSplit
from lvtrain.randomness import Key
from lvtrain.systems.vae import VAE, VAEConfig

KEY = Key(seed=0, step=0)
TEXT = [[4 + (i * j) % 9 for j in range(1, 2 + i % 6)] for i in range(40)]


def small_vae(components: int = 1, spread: float = 1.0) -> VAE:
    torch.manual_seed(0)
    vae = VAE(VAEConfig(embedding=6, hidden=8, latent=4, components=components), 13)
    with torch.no_grad():
        # Away from the start, so that posteriors differ and weights vary.
        vae.posterior_head.affine.weight.mul_(20 * spread)
        for parameter in vae.decoder.parameters():
            parameter.mul_(3)
    return vae.eval()


def batches() -> list[Batch]:
    return list(sequential(FlatSplit.of(TEXT), 16))


@pytest.mark.parametrize("components", [1, 3])
def test_the_mean_log_weight_is_the_elbo(components):
    vae = small_vae(components)
    expected = bound(vae, batches(), KEY).elbo
    draws = [log_weights(vae, batch, 400, KEY).mean(0) for batch in batches()]
    assert torch.cat(draws).mean().item() == pytest.approx(expected, rel=0.03)


def test_the_importance_weighted_nll_is_at_most_the_negative_elbo_and_falls_with_draws():
    vae = small_vae()
    weights = torch.cat([log_weights(vae, b, 64, KEY) for b in batches()], dim=1).double()

    def nll(draws: int) -> float:
        groups = weights.view(-1, draws, weights.shape[1])
        return -(groups.logsumexp(1) - math.log(draws)).mean().item()

    values = [nll(k) for k in (1, 4, 16, 64)]
    assert values == sorted(values, reverse=True)
    assert values[0] - values[-1] > 0.01
    assert importance_weighted(vae, batches(), 64, KEY).nll == pytest.approx(values[-1], rel=1e-6)


def test_importance_weights_find_the_likelihood_that_enumeration_gives():
    # A decoder that does not read z: p(x) is p(x | z) for any z.
    vae = small_vae(spread=0.1)
    with torch.no_grad():
        for layer in vae.decoder.layers:
            layer.w_code.zero_()
    exact = bound(vae, batches(), KEY).nll
    found = importance_weighted(vae, batches(), 200, KEY)
    assert found.nll == pytest.approx(exact, rel=0.01)
    words = sum(len(sentence) + 1 for sentence in TEXT)
    assert found.perplexity == pytest.approx(math.exp(found.nll * len(TEXT) / words), rel=1e-6)


def test_weights_are_those_of_each_sentence_alone():
    vae = small_vae()
    whole = torch.cat([-log_weights(vae, b, 100, KEY).mean(0) for b in batches()])
    single = sequential(FlatSplit.of(TEXT), 1)
    alone = torch.cat([-log_weights(vae, b, 100, KEY).mean(0) for b in single])
    # Rows of a batch run from the longest down; their sums do not depend on the order.
    assert whole.sum().item() == pytest.approx(alone.sum().item(), rel=0.05)


def test_posteriors_that_are_the_prior_carry_no_information():
    q = Posteriors(torch.zeros(300, 5), torch.zeros(300, 5))
    assert mutual_information(q, KEY) == pytest.approx(0.0, abs=1e-9)
    assert active_units(q.mu) == 0


def test_posteriors_far_apart_carry_the_log_of_their_number():
    mu = 100.0 * torch.arange(50.0)[:, None]
    assert mutual_information(Posteriors(mu, torch.zeros(50, 1)), KEY) == pytest.approx(
        math.log(50), abs=1e-9
    )


def test_information_is_that_of_a_gaussian_channel():
    # z = x + noise, both standard normal: I = ½ log 2 a dimension.
    mu = Key(seed=1, step=0).normal(4000, 2)
    found = mutual_information(Posteriors(mu, torch.zeros(4000, 2)), KEY)
    assert found == pytest.approx(math.log(2), abs=0.03)


def test_information_is_at_most_the_kl_and_the_log_of_the_sentences():
    vae = small_vae()
    information = mutual_information(posteriors(vae, batches()), KEY)
    assert 0.0 <= information <= math.log(len(TEXT))
    assert information <= bound(vae, batches(), KEY).kl


def test_active_units_are_those_whose_mean_varies():
    mu = torch.zeros(100, 4)
    mu[:, 1] = torch.linspace(-1, 1, 100)
    mu[:, 2] = 5.0
    mu[:, 3] = torch.linspace(-0.05, 0.05, 100)
    assert active_units(mu) == 1


def test_frechet_distance_of_a_set_to_itself_is_0_and_of_a_shift_its_square():
    x = KEY.normal(500, 6)
    assert frechet_distance(x, x) == pytest.approx(0.0, abs=1e-8)
    assert frechet_distance(x, x + 2.0) == pytest.approx(6 * 4.0, rel=1e-5)


def test_frechet_distance_is_the_closed_form_of_diagonal_gaussians():
    x = KEY.normal(2000, 3).double()
    values, vectors = torch.linalg.eigh(torch.cov(x.t()))
    white = (x - x.mean(0)) @ vectors / values.sqrt()
    scale = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    expected = ((scale - 1) ** 2).sum().item()
    assert frechet_distance(white, white * scale) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_holds_fewer_codes_than_dimensions():
    x = KEY.normal(5, 20)
    assert math.isfinite(frechet_distance(x, x * 2))


def test_figures_are_functions_of_the_weights_and_the_key():
    vae = small_vae()
    assert bound(vae, batches(), KEY) == bound(vae, batches(), KEY)
    assert bound(vae, batches(), KEY) != bound(vae, batches(), KEY.fold("other"))


def test_frechet_distance_of_diverged_codes_is_not_a_number():
    codes = torch.randn(8, 3)
    assert math.isnan(frechet_distance(codes, codes.clone().fill_(math.inf)))
