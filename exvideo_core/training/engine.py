"""Gradients and optimizer steps in plain PyTorch, on one GPU or sharded over several (FSDP2).

Only the trained modules are sharded; the frozen network is replicated. Each GPU keeps a shard of the trained weights,
gradients and optimizer state, and gathers a module's weights from its forward pass until its gradients are scattered:
ZeRO's stage 2 (arXiv:1910.02054).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from ..runtime.distributed import World
from .ema import EMA
from .optimizers import make_optimizers
from .safe_load import check_metadata, safe_load
from .settings import OptimizerConfig

State = dict[str, Any]


class TorchEngine:
    """Optimizer and EMA (of the decay `average`; 0 is none) of the trained modules, sharded over all processes."""

    def __init__(self, units: Mapping[str, nn.Module], config: OptimizerConfig, average: float, world: World) -> None:
        self.config, self.world = config, world
        self._sharded: list[Any] = []
        if world.size > 1:
            mesh = init_device_mesh(world.device.type, (world.size,))
            self._sharded = [fully_shard(unit, mesh=mesh, reshard_after_forward=False) for unit in units.values()]
        self.weights = {f"{unit}.{name}": p for unit, module in units.items() for name, p in module.named_parameters()}
        self.optimizers = make_optimizers(list(self.weights.values()), config)
        self.ema = EMA(self.weights, average) if average else None

    def backward(self, losses: Iterator[Callable[[], Tensor]], count: int) -> list[float]:
        """Accumulate the gradients of this process's `count` losses; returns the losses."""
        values = []
        for loss_of in losses:
            loss = loss_of()
            (loss / count).backward()
            values.append(float(loss.detach()))
        return values

    def step(self, rate: float) -> float:
        """Update at `rate` times the full learning rate; returns the norm of the gradient before clipping."""
        self._fill_gradients()
        norm = self._clip()
        self.optimizers.step(rate)
        if self.ema:
            self.ema.update(self.weights)
        return norm

    def _fill_gradients(self) -> None:
        for p in self.weights.values():
            if p.grad is None:  # queries of attention to one token: a saved state without all cannot be read
                p.grad = torch.zeros_like(p)

    def _clip(self) -> float:
        gradients = [local(p.grad) for p in self.weights.values() if p.grad is not None]
        # in float64, where the order of the sum hardly matters: the same clipping on any number of GPUs
        squares = torch.stack([gradient.double().square().sum() for gradient in gradients]).sum()
        norm = self.world.total([float(squares)])[0] ** 0.5
        if self.config.clip_norm and norm > self.config.clip_norm:
            for gradient in gradients:
                gradient.mul_(self.config.clip_norm / norm)
        return norm

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within it the network has the EMA weights; no step may be taken."""
        with self.ema.swapped_in(self.weights) if self.ema else nullcontext():
            self.release()
            try:
                yield
            finally:
                self.release()

    def release(self) -> None:
        """Reshard: gathered weights are stale once the shards have changed."""
        for module in self._sharded:
            module.reshard()

    def gathered(self) -> dict[str, Tensor]:
        """Full weights on the CPU, in the first process; a collective call."""
        result = {}
        for name, p in self.weights.items():
            whole = p.full_tensor().detach() if isinstance(p, DTensor) else p.detach()
            if self.world.is_first:
                result[name] = whole.to("cpu", copy=True)  # the EMA may be swapped out before it is used
        return result

    def bytes_held(self) -> dict[str, int]:
        """Bytes that this process keeps between steps, by kind."""
        weights, moments = self._held()
        averages = self.ema.weights.values() if self.ema else ()
        kinds = {"weights": weights, "moments": moments, "average": averages}
        return {kind: sum(local(t).numel() * t.element_size() for t in held) for kind, held in kinds.items()}

    def _held(self) -> tuple[list[Tensor], list[Tensor]]:
        moments = [t for state in self._moments().values() for t in state.values() if isinstance(t, Tensor)]
        return list(self.weights.values()), moments

    def save(self, folder: Path) -> None:
        """Write everything that resuming needs, each process its shard."""
        self._call(save, self._state(), folder)

    def load(self, folder: Path) -> None:
        """Load what `save` wrote, also on another number of GPUs."""
        check_metadata(folder)
        self._fill_gradients()
        self.optimizers.step(0)  # has them allocate the state
        state = self._state()
        with safe_load(folder):
            self._call(load, state, folder)
        if self.ema:
            self.ema.updates = int(state["average"]["updates"])

    def _call(self, save_or_load: Callable[..., object], state: State, folder: Path) -> None:
        is_alone = self.world.size == 1
        with warnings.catch_warnings():
            if is_alone:  # a single process needs no torch.distributed
                warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            save_or_load(state, checkpoint_id=folder, no_dist=is_alone)

    def _state(self) -> State:
        state: State = {"weights": {name: p.detach() for name, p in self.weights.items()}, "moments": self._moments()}
        if self.ema:
            state["average"] = {"weights": self.ema.weights, "updates": torch.tensor(self.ema.updates)}
        return state

    def _moments(self) -> dict[str, dict[str, Tensor]]:
        names: dict[Tensor, str] = {p: name for name, p in self.weights.items()}
        return {names[p]: state for optimizer, _ in self.optimizers.parts for p, state in optimizer.state.items()}


def local(tensor: Tensor) -> Tensor:
    """This process's shard of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
