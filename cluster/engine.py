"""The engine of a player on DeepSpeed: `lvtrain.training.engine.Engine` over the ranks of a group.

DeepSpeed's quirks, and what is done about each, are all in this file (version 0.19):

- A backward that passes an engine twice fails or gives wrong gradients under ZeRO 1 and 2, and so
  do two backwards a step. Players cut their graphs at the tensors they exchange and differentiate
  one loss an update, on the module and not through the engine; a second `backward` is refused.
- It counts the parts of an update in its own step, which stage 0 does without here: it is told
  which part is the last.
- Clipping is on (at 1.0) unless turned off in so many words.
- Parameters that a loss does not depend on get a gradient of zero, by which Adam's momentum moves
  them. Under stage 0 it is taken away again; a flat piece of ZeRO cannot leave some of its numbers
  out, so the schedule that has such updates, the alternating one, is for stage 0 alone.
- It hooks the module's forward, for inputs and timers that are not used here; an operation that
  looks into a module, as the closed-form gradient penalty does, could not. The hooks go again.
- Sparse gradients are not reduced under ZeRO: modules that would give them are told not to.
- The operator for shared memory is compiled at the start, for a minute, and only inference uses it.
- ZeRO keeps Adam's moments in flat pieces by rank, and its own checkpoints load at the same number
  of ranks alone. `state` puts them together by name, so a checkpoint is the same file whatever the
  ranks and the stage, and one process reads it too.
- ZeRO 3 takes a module's parameters away between calls of its `forward`; operations that read them
  elsewhere, as the closed-form gradient penalty does, would find them empty. It is not offered.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lvtrain.config import OptimizerConfig
from lvtrain.randomness import Key
from lvtrain.training.engine import TorchEngine
from lvtrain.training.watch import Watch


def join(rank: int, world: int, address: str, port: int, timeout: float) -> None:
    """Enter the group of `world` processes that meet at `address`: NCCL on GPUs, gloo on CPUs.

    A collective that another rank does not take part in ends with an error after `timeout` seconds.
    """
    on_gpu = torch.cuda.is_available()
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if on_gpu else "cpu")
    os.environ |= {
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_RANK": "0",  # a worker sees the GPU it was given and no other
    }
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel(logging.WARNING)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(
        dist_backend="nccl" if on_gpu else "gloo",
        auto_mpi_discovery=False,
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=timeout),
        verbose=False,
    )


class DeepSpeedEngine:
    """One part of a system under ZeRO stage 0, 1 or 2; every rank of the group has one.

    `state` and `load` are collective: all ranks call them, and each gets the whole.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        config: OptimizerConfig,
        steps: int,
        zero: int,
        watch: Watch,
    ) -> None:
        import deepspeed

        for part in module.modules() if zero else ():
            if getattr(part, "sparse", False):
                part.sparse = False  # type: ignore[assignment]
        self.name, self.config, self.zero, self.watch = name, config, zero, watch
        self.own = TorchEngine(name, module, config, steps, watch)
        """What the engine would be on one rank: its optimiser, and all of it under stage 0."""
        self.engine, self.optimizer, _, _ = deepspeed.initialize(
            model=module,
            optimizer=self.own.optimizer,
            dist_init_required=False,
            config={
                "train_micro_batch_size_per_gpu": 1,
                "gradient_accumulation_steps": 1,
                "gradient_clipping": config.clip if zero else 0.0,
                "zero_optimization": {"stage": zero},
                "zero_allow_untested_optimizer": True,
                "steps_per_print": 10**12,
            },
        )
        module._forward_pre_hooks.clear()
        module._forward_hooks.clear()
        self._differentiated = False
        self._touched: set[nn.Parameter] = set()
        for parameter in self.own.parameters:
            parameter.register_post_accumulate_grad_hook(self._touched.add)

    def accumulate(self, parts: int) -> None:
        self.own.accumulate(parts)

    def backward(self, loss: Tensor, key: Key, terms: Mapping[str, Tensor] | None = None) -> None:
        if self._differentiated:
            raise RuntimeError(f"{self.name}: one backward a step: this is the second")
        self._differentiated = True
        self.own.prepare(loss, key, terms)
        self.engine.set_gradient_accumulation_boundary(self.own.last)
        with torch.autocast(loss.device.type, enabled=False):
            self.engine.backward(self.own.scaled(loss))
        if not self.own.last:
            return
        untouched = [p for p in self.own.parameters if p not in self._touched]
        self._touched.clear()
        if untouched and self.zero:
            raise RuntimeError(f"{self.name}: ZeRO {self.zero} cannot update some parameters alone")
        for parameter in untouched:
            parameter.grad = None

    def step(self, key: Key) -> dict[str, Tensor]:
        self._differentiated = False
        if not self.zero:
            # Backward has left every rank with the whole mean gradient.
            return self.own.step(key)
        if not self.own.passed():
            return {}
        rate = self.own.rate(key)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.engine.step()
        if not self.config.clip:
            return {}
        norm = torch.as_tensor(self.engine.get_global_grad_norm())
        self.watch.note(self.name, "gradient norm", norm, key)
        return {"gradient_norm": norm}

    def check(self) -> None:
        self.watch.check()

    def state(self) -> dict[str, Tensor]:
        if not self.zero:
            return self.own.state()
        state = self.own.module_state()
        for name, parameter in self.own.module.named_parameters():
            for moment, piece in self._moments().items():
                whole = piece.clone() if piece.dim() == 0 else _gathered(parameter, piece)
                state[f"optimizer.{name}.{moment}"] = whole
        return state

    def load(self, state: Mapping[str, Tensor]) -> None:
        if not self.zero:
            self.own.load(state)
            return
        self.own.load_module(state)
        self.optimizer.refresh_fp32_params()
        moments = self._moments()
        for name, parameter in self.own.module.named_parameters():
            for key, tensor in self.own.moments_of(name, state).items():
                if tensor.dim() == 0:
                    moments[key] = tensor.to(parameter.device, copy=True)
                    continue
                piece = moments.setdefault(key, torch.zeros_like(self._flat))
                if (at := _place(parameter)) is not None:
                    ours, theirs = at
                    piece[ours] = tensor.reshape(-1)[theirs].to(piece.device)

    @property
    def _flat(self) -> Tensor:
        """This rank's piece of all parameters, one after the other."""
        (flat,) = self.optimizer.single_partition_of_fp32_groups
        return flat

    def _moments(self) -> dict[str, Tensor]:
        """What the optimiser keeps of this rank's piece: nothing before the first step."""
        return self.own.optimizer.state[self._flat]


def _place(parameter: nn.Parameter) -> tuple[slice, slice] | None:
    """Where in the rank's piece a part of the parameter lies, and which part that is."""
    found: Any = parameter._hp_mapping  # type: ignore[attr-defined]
    if found is None:
        return None
    piece, part = found.hp_fragment_address, found.lp_fragment_address
    return (
        slice(piece.start, piece.start + piece.numel),
        slice(part.start, part.start + part.numel),
    )


def _gathered(parameter: nn.Parameter, piece: Tensor) -> Tensor:
    """The moment of a whole parameter from the pieces of all ranks, bit for bit.

    Added up as whole numbers, all zero but on the rank that has them: as floats, −0 + 0 is 0.
    """
    whole = torch.zeros(parameter.numel(), dtype=piece.dtype, device=piece.device)
    if (at := _place(parameter)) is not None:
        ours, theirs = at
        whole[theirs] = piece[ours]
    dist.all_reduce(whole.view(torch.int32))
    return whole.reshape(parameter.shape)
