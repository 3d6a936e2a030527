"""What a latent space holds: bounds and mutual information of a VAE, distances between codes.

Everything is in nats. A VAE's figures (Bowman et al. 2016):

    ELBO              E_q[log p(x | z)] − KL(q(z | x) ‖ p(z)), by one draw of z a sentence
    IW-NLL            −E log (1/k) Σ_k p(x | z_k) p(z_k) / q(z_k | x) ≤ −ELBO  (Burda et al. 2015)
    I(x; z)           E log q(z | x) − E log q(z)  (Hoffman and Johnson 2016; He et al. 2019)
    active units      dimensions with Var_x E_q[z] > 0.01  (Burda et al. 2015)
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lvtrain.data.batches import Batch
from lvtrain.evaluation.perplexity import perplexity
from lvtrain.modules.latent import gaussian_log_density
from lvtrain.objectives.divergence import mixture_kl
from lvtrain.randomness import Key
from lvtrain.systems.vae import VAE

ACTIVE_VARIANCE = 0.01
# Rows decoded at a time: sentences times draws.
_ROWS = 1024


class Bound(NamedTuple):
    """A VAE's evidence lower bound in nats a sentence, in its two parts: elbo = −(nll + kl)."""

    elbo: float
    nll: float
    kl: float


class Likelihood(NamedTuple):
    """An estimate of −log p(x): nats a sentence, and as perplexity per word (ends counted)."""

    nll: float
    perplexity: float


class Posteriors(NamedTuple):
    """μ and log σ² of q(z | x) of many sentences."""

    mu: Float[Tensor, "N Z"]
    logvar: Float[Tensor, "N Z"]


@torch.inference_mode()
def posteriors(vae: VAE, batches: Iterable[Batch]) -> Posteriors:
    """q(z | x) of every sentence."""
    mu, logvar = zip(*(vae.posterior(b.tokens, b.lengths) for b in batches), strict=True)
    return Posteriors(torch.cat(mu), torch.cat(logvar))


@torch.inference_mode()
def bound(vae: VAE, batches: Iterable[Batch], key: Key) -> Bound:
    """The ELBO by one draw of z a sentence; the KL exact unless the prior is a mixture."""
    nll, kl, rows = 0.0, 0.0, 0
    for batch in batches:
        mu, logvar = vae.posterior(batch.tokens, batch.lengths)
        noise = key.fold(batch.index).normal(*mu.shape, device=mu.device)
        z = mu + (0.5 * logvar).exp() * noise
        nll += _nll(vae, z, batch.tokens, batch.lengths).sum().item()
        if vae.prior.components > 1:
            kl += mixture_kl(z, mu, logvar, vae.prior).sum().item()
        else:
            kl += 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum().item()
        rows += len(mu)
    return Bound(-(nll + kl) / rows, nll / rows, kl / rows)


@torch.inference_mode()
def log_weights(vae: VAE, batch: Batch, draws: int, key: Key) -> Float[Tensor, "draws B"]:
    """log p(x, z) − log q(z | x) of draws of z from q: their mean is an ELBO, the log of their mean
    exponential the importance-weighted bound."""
    mu, logvar = vae.posterior(batch.tokens, batch.lengths)
    rows, size = mu.shape
    many = max(1, _ROWS // rows)
    parts = []
    for start in range(0, draws, many):
        n = min(many, draws - start)
        noise = key.fold(batch.index, start).normal(n, rows, size, device=mu.device)
        z = mu + (0.5 * logvar).exp() * noise
        # Tiled sentence by sentence, so that lengths stay in descending order.
        flat = z.transpose(0, 1).reshape(rows * n, size)
        tokens = batch.tokens.repeat_interleave(n, dim=0)
        lengths = batch.lengths.repeat_interleave(n)
        nll = _nll(vae, flat, tokens, lengths).view(rows, n).t()
        parts.append(vae.prior.log_density(z) - gaussian_log_density(z, mu, logvar) - nll)
    return torch.cat(parts)


def importance_weighted(vae: VAE, batches: Iterable[Batch], draws: int, key: Key) -> Likelihood:
    """−log p(x) by `draws` importance samples a sentence: a bound from above; more draws tighten
    it."""
    total, rows, words = 0.0, 0, 0
    for batch in batches:
        weights = log_weights(vae, batch, draws, key).double()
        total -= (weights.logsumexp(0) - math.log(draws)).sum().item()
        rows += weights.shape[1]
        words += batch.words
    return Likelihood(total / rows, perplexity(total / words))


@torch.inference_mode()
def mutual_information(q: Posteriors, key: Key) -> float:
    """I(x; z) of a sentence drawn evenly from N and z from its posterior.

    1/N Σ_n [log q(z_n | x_n) − log 1/N Σ_m q(z_n | x_m)], one draw z_n of each posterior: the
    aggregate posterior over the same N sentences, so at most log N. Worked in float64, by matrix
    products: −½ Σ (z − μ)²/σ² = −½ (z² · 1/σ² − 2 z · μ/σ² + Σ μ²/σ²).
    """
    mu, logvar = q.mu.double(), q.logvar.double()
    noise = key.normal(*mu.shape, device=mu.device).double()
    z = mu + (0.5 * logvar).exp() * noise
    precision = (-logvar).exp()
    constant = (logvar + mu.square() * precision).sum(1)
    total = 0.0
    for part in z.split(_ROWS):
        # The factor (2π)^(−Z/2) is in both terms and cancels.
        square = part.square() @ precision.t() - 2 * part @ (mu * precision).t() + constant
        total += (0.5 * square).neg().logsumexp(1).sum().item()
    conditional = -0.5 * (logvar + noise.square()).sum(1).mean().item()
    return conditional - (total / len(mu) - math.log(len(mu)))


def active_units(mu: Float[Tensor, "N Z"], threshold: float = ACTIVE_VARIANCE) -> int:
    """Dimensions whose posterior mean varies over sentences by more than `threshold`."""
    return int((mu.double().var(0) > threshold).sum())


def frechet_distance(a: Float[Tensor, "N C"], b: Float[Tensor, "M C"]) -> float:
    """‖m_a − m_b‖² + tr(S_a + S_b − 2 (S_a^½ S_b S_a^½)^½) of the Gaussians with the moments of two
    sets of codes (Dowson and Landau 1982), in float64. Falls with the sizes of the sets: compare
    sets of one size. NaN where a code is not finite."""
    a, b = a.double(), b.double()
    if not (a.isfinite().all() and b.isfinite().all()):
        return math.nan
    cov_a, cov_b = (torch.cov(x.t()).reshape(x.shape[1], x.shape[1]) for x in (a, b))
    values, vectors = torch.linalg.eigh(cov_a)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.t()
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp_min(0).sqrt().sum()
    means = (a.mean(0) - b.mean(0)).square().sum()
    return max(0.0, (means + cov_a.trace() + cov_b.trace() - 2 * cross).item())


def _nll(vae: VAE, z: Tensor, tokens: Tensor, lengths: Tensor) -> Float[Tensor, " B"]:
    """−log p(x | z) of each row."""
    each = vae.decoder.cross_entropy(z, tokens, lengths, reduction="none")
    row = torch.arange(len(tokens), device=tokens.device).repeat_interleave(lengths)
    return each.new_zeros(len(tokens)).index_add_(0, row, each)
