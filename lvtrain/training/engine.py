"""The seam between a player and how its parameters are updated.

A player computes one loss, calls `backward` once and `step` once. No graph crosses an engine: what
another player contributes to a loss arrives as a detached tensor. Under that rule the same player
runs on plain torch here and on other engines elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from lvtrain.config import OptimizerConfig
from lvtrain.errors import NonFiniteLoss
from lvtrain.randomness import Key
from lvtrain.training.watch import Watch


class Engine(Protocol):
    """Updates the parameters of one module."""

    def backward(self, loss: Tensor, key: Key, terms: Mapping[str, Tensor] | None = None) -> None:
        """Differentiate `loss`, the only one of this update, at the training step of `key`.

        Raises NonFiniteLoss before it, naming one of the `terms` that make up the loss where it is
        theirs; an engine that does not wait for its device raises it at a later `check` instead,
        and updates nothing from then on.
        """
        ...

    def step(self, key: Key) -> dict[str, Tensor]:
        """Update the parameters at the training step of `key`; gives figures of it: `gradient_norm`
        before clipping, where there is any."""
        ...

    def accumulate(self, parts: int) -> None:
        """From now on, update once in `parts` calls of `step`, by the mean of as many losses, each
        differentiated before its call."""
        ...

    def check(self) -> None:
        """Raise NonFiniteLoss for what was not finite since the last check."""
        ...

    def state(self) -> dict[str, Tensor]:
        """All that a checkpoint needs: parameters, buffers and optimiser state, by name."""
        ...

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` gave; raises ValueError for tensors of another module's shapes."""
        ...


EngineFactory = Callable[[str, nn.Module, OptimizerConfig], Engine]
"""Makes the engine of one part of a system: its name, its module, its optimiser."""


class TorchEngine:
    """One process, one torch optimiser. Engines of one run share a `watch`."""

    def __init__(
        self,
        name: str,
        module: nn.Module,
        config: OptimizerConfig,
        steps: int,
        watch: Watch | None = None,
    ) -> None:
        self.name, self.module, self.config, self.steps = name, module, config, steps
        parameters = [p for p in module.parameters() if p.requires_grad]
        self.parameters = parameters
        self.watch = watch or Watch(parameters[0].device)
        on_gpu = parameters[0].is_cuda
        if config.kind == "adam":
            self.optimizer: torch.optim.Optimizer = torch.optim.Adam(
                parameters, lr=config.lr, betas=config.betas, fused=True, capturable=on_gpu
            )
        else:
            self.optimizer = torch.optim.SGD(
                parameters, lr=config.lr, fused=self.watch.deferred or None
            )
        self._parts, self._before = 1, 0

    def accumulate(self, parts: int) -> None:
        self._parts = parts

    def backward(self, loss: Tensor, key: Key, terms: Mapping[str, Tensor] | None = None) -> None:
        self.prepare(loss, key, terms)
        # What was computed in half goes back in half; nothing else is to be rounded.
        with torch.autocast(loss.device.type, enabled=False):
            self.scaled(loss).backward()

    def scaled(self, loss: Tensor) -> Tensor:
        """What a loss is of an update's, which is the mean of its parts."""
        return loss / self._parts if self._parts > 1 else loss

    def prepare(self, loss: Tensor, key: Key, terms: Mapping[str, Tensor] | None) -> None:
        """Look at a loss and its terms, and forget the gradients of the update before."""
        for quantity, term in {**(terms or {}), "loss": loss}.items():
            self.watch.note(self.name, quantity, term, key)
        if not self._before:
            # Unset, not zeroed: autograd then hands gradients over instead of adding to zeros.
            self.optimizer.zero_grad(set_to_none=True)

    @property
    def last(self) -> bool:
        """Whether the part to come, or now in hand, is the last before the update."""
        return self._before + 1 == self._parts

    def passed(self) -> bool:
        """Count the part in hand as done; gives whether it was the last."""
        last = self.last
        self._before = 0 if last else self._before + 1
        return last

    def step(self, key: Key) -> dict[str, Tensor]:
        if not self.passed():
            return {}
        rate = self.rate(key)
        total = None
        if self.config.clip:
            total = self._gradient_norm()
            self.watch.note(self.name, "gradient norm", total, key)
        if self.watch.deferred:
            # The fused optimisers divide the gradients by the one and heed the other, on the
            # device: clipping costs no pass over the gradients, and nothing has to be read.
            over = None if total is None else ((total + 1e-6) / self.config.clip).clamp_min(1)
            self.optimizer.grad_scale = over  # type: ignore[attr-defined]
            self.optimizer.found_inf = self.watch.refused  # type: ignore[attr-defined]
        elif total is not None and self.config.kind == "sgd":
            # lr · (s · g) = (lr · s) · g: one pass over the gradients less.
            rate = rate * min(1.0, self.config.clip / (total.item() + 1e-6))
        elif total is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, self.config.clip, total)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        # Those of a large vocabulary take as much as its table, which the next ones need.
        self.optimizer.zero_grad(set_to_none=True)
        return {} if total is None else {"gradient_norm": total}

    def rate(self, key: Key) -> float | Tensor:
        """The learning rate of a step."""
        return key.number(f"rate of {self.name}", lambda step: self.config.rate(step, self.steps))

    def check(self) -> None:
        self.watch.check()

    def _gradient_norm(self) -> Tensor:
        """‖g‖₂ over all parameters; sums the entries of sparse gradients that share a row."""
        gradients = []
        for parameter in self.parameters:
            if parameter.grad is not None and parameter.grad.is_sparse:
                parameter.grad = parameter.grad.coalesce()
                gradients.append(parameter.grad.values())
            elif parameter.grad is not None:
                gradients.append(parameter.grad)
        return nn.utils.get_total_norm(gradients, foreach=True)

    def state(self) -> dict[str, Tensor]:
        state = self.module_state()
        for name, parameter in self.module.named_parameters():
            for key, tensor in self.optimizer.state.get(parameter, {}).items():
                if tensor is not None:
                    state[f"optimizer.{name}.{key}"] = tensor
        return state

    def load(self, state: Mapping[str, Tensor]) -> None:
        self.load_module(state)
        for name, parameter in self.module.named_parameters():
            if held := self.moments_of(name, state):
                self.optimizer.state[parameter] = {
                    key: tensor.to(parameter.device) for key, tensor in held.items()
                }

    def module_state(self) -> dict[str, Tensor]:
        """What `state` has of the module: parameters and buffers."""
        return {f"module.{name}": tensor for name, tensor in self.module.state_dict().items()}

    def load_module(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `module_state` gave."""
        module = {n.removeprefix("module."): t for n, t in state.items() if n.startswith("module.")}
        _check_shapes(module, self.module.state_dict())
        self.module.load_state_dict(module)

    @staticmethod
    def moments_of(name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What `state` has of the optimiser's running means of one parameter, by their names."""
        prefix = f"optimizer.{name}."
        return {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}


def check_finite(player: str, tensors: Mapping[str, Tensor]) -> None:
    """Raise NonFiniteLoss, naming the first tensor of a player that is not finite."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not (finite := torch.isfinite(tensor)).all():
            raise NonFiniteLoss(player, name, tensor[~finite][0].item())


def _check_shapes(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise ValueError, naming the first tensor that is missing, too many or of another shape."""
    for name in sorted(found.keys() | expected.keys()):
        theirs, ours = (
            "nothing" if name not in tensors else str(list(tensors[name].shape))
            for tensors in (found, expected)
        )
        if theirs != ours:
            raise ValueError(f"{name}: expected {ours}, found {theirs}")
