"""AdamW, also in 8 bits; Muon for small networks and little data; and the learning rate schedule.

Muon (Keller Jordan, 2024, https://kellerjordan.github.io/posts/muon/) orthogonalises every matrix's update: all
directions of a layer learn equally fast. Measured on the demo's autoencoder, 80 steps reach what AdamW did not in 300.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from ..errors import ExVideoError
from .settings import OptimizerConfig

_MIN_SIDE = 16  # thinner matrices have too few directions to be worth it


class Muon(Optimizer):
    """Momentum with orthogonalised updates, for matrices and convolutions; everything else should go to AdamW."""

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.9) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure is offered
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[tuple[int, int], list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    by_shape.setdefault((p.shape[0], p.numel() // p.shape[0]), []).append(p)
            for (rows, columns), same in by_shape.items():
                directions = [self._direction(p, group["momentum"]).view(rows, columns) for p in same]
                # one batch per shape: hundreds of small matrices would cost more in calls than in arithmetic;
                # in bfloat16, as its author does: approximately orthogonal is enough
                updates = orthogonal(torch.stack(directions).bfloat16()) * math.sqrt(max(1.0, rows / columns))
                for p, whole in zip(same, updates, strict=True):
                    update = whole.view(p.shape)
                    if isinstance(p, DTensor):  # every process has computed all of it, so nothing is sent
                        update = distribute_tensor(update, p.device_mesh, p.placements, src_data_rank=None)
                    p.add_(update, alpha=-group["lr"])

    def _direction(self, p: Tensor, momentum: float) -> Tensor:
        state = self.state[p]
        if "velocity" not in state:
            state["velocity"] = torch.zeros_like(p)
        assert p.grad is not None
        state["velocity"].lerp_(p.grad, 1 - momentum)
        direction = p.grad.lerp(state["velocity"], momentum)  # Nesterov momentum
        # gathered: shards of a matrix cannot be orthogonalised alone
        return direction.full_tensor() if isinstance(direction, DTensor) else direction


def orthogonal(x_NRC: Tensor, steps: int = 5) -> Tensor:
    """Approximately the nearest orthogonal matrices, by Newton-Schulz iteration: singular values within .7 to 1.2."""
    tall = x_NRC.shape[1] > x_NRC.shape[2]
    x = x_NRC.mT if tall else x_NRC
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    # coefficients of the quintic that drives singular values to 1 fastest (see the address above)
    a, b, c = 3.4445, -4.7750, 2.0315
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Optimizers:
    """Optimizers, each for some of the parameters and with its full rate, on one learning rate schedule."""

    def __init__(self, parts: Sequence[tuple[Optimizer, float]]) -> None:
        self.parts = parts

    def step(self, rate: float) -> None:
        """Update at `rate` times the full learning rates, and clear gradients."""
        for optimizer, full_rate in self.parts:
            for group in optimizer.param_groups:
                if isinstance(group["lr"], Tensor):  # torchao's
                    group["lr"].fill_(full_rate * rate)
                else:
                    group["lr"] = full_rate * rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def make_optimizers(params: Sequence[nn.Parameter], config: OptimizerConfig) -> Optimizers:
    """The optimizers that a configuration names; ExVideoError if a package is missing."""
    betas = config.beta1, config.beta2
    if config.kind == "muon":
        return muon_and_adamw(params, config.muon_rate, config.learning_rate, betas, config.weight_decay)
    make: Callable[..., Optimizer] = torch.optim.AdamW
    if config.kind == "adamw8bit":
        try:
            from torchao.optim import AdamW8bit
        except ImportError as error:
            raise ExVideoError(
                "optimizer.kind adamw8bit needs the package torchao, which is not installed: pip install torchao; "
                "or choose adamw."
            ) from error
        make = AdamW8bit
    adamw = make(params, lr=config.learning_rate, betas=betas, weight_decay=config.weight_decay)
    return Optimizers([(adamw, config.learning_rate)])


def muon_and_adamw(
    params: Sequence[nn.Parameter],
    muon_rate: float,
    adam_rate: float,
    betas: tuple[float, float] = (0.9, 0.97),
    weight_decay: float = 0.0,
) -> Optimizers:
    """Muon for large matrices and convolutions, AdamW for the rest."""
    parts: list[tuple[Optimizer, float]] = []
    if large := [p for p in params if _is_large(p)]:
        parts.append((Muon(large, muon_rate), muon_rate))
    if rest := [p for p in params if not _is_large(p)]:
        parts.append((torch.optim.AdamW(rest, adam_rate, betas=betas, weight_decay=weight_decay), adam_rate))
    return Optimizers(parts)


def _is_large(p: Tensor) -> bool:
    return p.ndim >= 2 and min(p.shape[0], p.numel() // p.shape[0]) >= _MIN_SIDE


def learning_rate(step: float, steps: float, warmup: float = 20, hold: float = 0.3) -> float:
    """Share of the full rate: linear warmup, constant for `hold` of the steps, then linear decay to 0.

    With `hold` 1 there is no decay.
    """
    rise = min(1.0, (step + 1) / max(warmup, 1))
    fall = (steps - step) / (steps * (1 - hold)) if hold < 1 else 1.0
    return max(0.0, min(rise, fall, 1.0))
