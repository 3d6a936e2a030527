from __future__ import annotations

from pathlib import Path

import torch

from lvtrain.generation.latent_space import (
    fit_gaussian,
    lerp,
    read_gaussian,
    slerp,
    write_gaussian,
)
from lvtrain.generation.weights import write_tensors
from lvtrain.modules.latent import on_sphere


def test_walks_begin_and_end_where_they_should() -> None:
    a, b = on_sphere(torch.randn(2, 4, 6), 3.0)
    a, b = on_sphere(a, 3.0), on_sphere(b, 3.0)
    for walk in (lerp, slerp):
        way = walk(a, b, 5)
        torch.testing.assert_close(way[0], a)
        torch.testing.assert_close(way[-1], b)


def test_the_great_circle_stays_on_the_sphere_at_even_angles() -> None:
    a, b = (on_sphere(torch.randn(3, 6).double(), 2.0) for _ in range(2))
    way = slerp(a, b, 7)
    torch.testing.assert_close(way.norm(dim=2), torch.full((7, 3), 2.0).double())
    steps = torch.nn.functional.cosine_similarity(way[1:], way[:-1], dim=2)
    torch.testing.assert_close(steps, steps[:1].expand_as(steps))


def test_the_great_circle_between_equal_codes_is_a_point() -> None:
    a = on_sphere(torch.randn(2, 5))
    torch.testing.assert_close(slerp(a, a, 3), a.expand(3, 2, 5))


def test_a_fitted_gaussian_has_the_moments_of_the_codes() -> None:
    torch.manual_seed(0)
    mixing = torch.randn(4, 4)
    codes = torch.randn(5000, 4) @ mixing + torch.tensor([1.0, -2.0, 0.0, 3.0])
    fitted = fit_gaussian(codes)
    torch.testing.assert_close(fitted.mean, codes.mean(0))
    torch.testing.assert_close(fitted.factor @ fitted.factor.t(), torch.cov(codes.t()))
    drawn = fitted.sample(torch.randn(200_000, 4))
    torch.testing.assert_close(torch.cov(drawn.t()), torch.cov(codes.t()), atol=0.15, rtol=0.05)


def test_a_direction_without_variance_stays_without() -> None:
    codes = torch.randn(100, 3)
    codes[:, 2] = 7.0
    drawn = fit_gaussian(codes).sample(torch.randn(50, 3))
    torch.testing.assert_close(drawn[:, 2], torch.full((50,), 7.0), atol=1e-4, rtol=0)


def test_a_kept_gaussian_is_of_its_step_and_width_alone(tmp_path: Path) -> None:
    path = tmp_path / "prior.safetensors"
    assert read_gaussian(path, 7, 3) is None
    kept = fit_gaussian(torch.randn(20, 3))
    write_gaussian(path, kept, 7)
    found = read_gaussian(path, 7, 3)
    assert found is not None
    assert torch.equal(found.mean, kept.mean) and torch.equal(found.factor, kept.factor)
    assert read_gaussian(path, 8, 3) is None and read_gaussian(path, 7, 4) is None
    write_tensors(path, {"mean": kept.mean})
    assert read_gaussian(path, 7, 3) is None
    path.write_bytes(b"cut short")
    assert read_gaussian(path, 7, 3) is None
