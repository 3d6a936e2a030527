"""Standard normal and uniform draws from a seed in a tensor, aligned by rows.

On a CPU they are torch's generator's; on a GPU a kernel of ours reads the seed, so that the host
never has to know it.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .dispatch import choose


def normal(
    seed: Int[Tensor, ""], *shape: int, rank: int = 0, world: int = 1
) -> Float[Tensor, "..."]:
    """Draw from N(0, 1) rows rank, rank + world, … of ``seed``'s stream: [B, …] float32."""
    return _drawn(seed, shape, True, rank, world)


def uniform(
    seed: Int[Tensor, ""], *shape: int, rank: int = 0, world: int = 1
) -> Float[Tensor, "..."]:
    """Draw from U[0, 1) rows rank, rank + world, … of ``seed``'s stream: [B, …] float32."""
    return _drawn(seed, shape, False, rank, world)


def _drawn(seed: Tensor, shape: tuple[int, ...], normal: bool, rank: int, world: int) -> Tensor:
    if choose("noise", seed.device).path == "triton":
        from . import noise_triton

        return noise_triton.drawn(seed, shape, normal, rank, world)
    generator = torch.Generator(seed.device).manual_seed(int(seed))
    draw = torch.randn if normal else torch.rand
    whole = draw((shape[0] * world, *shape[1:]), generator=generator, device=seed.device)
    return whole[rank::world]
