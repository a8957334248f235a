"""How gradients become steps: plain PyTorch, on one GPU or sharded over several (FSDP2).

Only the trained modules are sharded; the frozen network is whole on every GPU. Each GPU keeps its part of the
weights, gradients and optimizer, and gathers a module's weights when it is called, until its gradients are scattered:
what ZeRO calls stage 2 (arXiv:1910.02054).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor

from ..runtime.distributed import World
from .ema import AveragedWeights
from .optimizers import make_optimizers
from .safe_load import check_metadata, safe_load
from .settings import OptimizerConfig

State = dict[str, Any]


class TorchEngine:
    """The trained modules' optimizer and averaged weights, shared out over all processes.

    Args:
        units: the modules that are trained.
        config: of the optimizer.
        average: decay of the averaged weights; 0 is none.
        world: the processes.
    """

    def __init__(self, units: Mapping[str, nn.Module], config: OptimizerConfig, average: float, world: World) -> None:
        self.config, self.world = config, world
        self._sharded = _shard(units.values(), world) if world.size > 1 else []
        self.weights = {f"{unit}.{name}": p for unit, module in units.items() for name, p in module.named_parameters()}
        self.optimizers = make_optimizers(list(self.weights.values()), config)
        self.average = AveragedWeights(self.weights, average) if average else None

    def backward(self, losses: Iterator[Callable[[], Tensor]], count: int) -> list[float]:
        """Add up the gradients of so many losses of this process; returns the losses."""
        values = []
        for loss_of in losses:
            loss = loss_of()
            (loss / count).backward()
            values.append(float(loss.detach()))
        return values

    def step(self, rate: float) -> float:
        """Change the weights at a share of the full learning rate; returns the gradient's length before clipping."""
        for p in self.weights.values():
            if p.grad is None:  # queries of attention to one token: a saved state has all or cannot be read
                p.grad = torch.zeros_like(p)
        norm = self._clip()
        self.optimizers.step(rate)
        if self.average:
            self.average.update(self.weights)
        return norm

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
        """Have the averaged weights in the network for a while; nothing may be trained meanwhile."""
        if self.average:
            self.average.swap(self.weights)
        self.release()
        try:
            yield
        finally:
            self.release()
            if self.average:
                self.average.swap(self.weights)

    def release(self) -> None:
        """Let go of gathered weights, which would be used again though the own parts have changed."""
        for module in self._sharded:
            module.reshard()

    def gathered(self) -> dict[str, Tensor]:
        """Whole weights, on the CPU, in the first process; to be called by all."""
        result = {}
        for name, p in self.weights.items():
            whole = p.full_tensor().detach() if isinstance(p, DTensor) else p.detach()
            if self.world.is_first:
                result[name] = whole.to("cpu", copy=True)  # the average may leave the network before it is used
        return result

    def bytes_held(self) -> dict[str, int]:
        """What this process keeps between steps, by kind."""
        moments = (t for state in self._moments().values() for t in state.values() if isinstance(t, Tensor))
        averages = self.average.weights.values() if self.average else ()
        kinds = {"weights": self.weights.values(), "moments": moments, "average": averages}
        return {kind: sum(local(t).numel() * t.element_size() for t in held) for kind, held in kinds.items()}

    def save(self, folder: Path) -> None:
        """Write everything a run needs to go on, each process its own part."""
        with _as_one(self.world):
            save(self._state(), checkpoint_id=folder, no_dist=self.world.size == 1)

    def load(self, folder: Path) -> None:
        """Take over what `save` wrote, also on another number of GPUs."""
        check_metadata(folder)
        self.optimizers.create_state()
        state = self._state()
        with _as_one(self.world), safe_load(folder):
            load(state, checkpoint_id=folder, no_dist=self.world.size == 1)
        if self.average:
            self.average.updates = int(state["average"]["updates"])

    def _state(self) -> State:
        state: State = {"weights": {name: p.detach() for name, p in self.weights.items()}, "moments": self._moments()}
        if self.average:
            state["average"] = {"weights": self.average.weights, "updates": torch.tensor(self.average.updates)}
        return state

    def _moments(self) -> dict[str, dict[str, Tensor]]:
        names = {id(p): name for name, p in self.weights.items()}
        return {names[id(p)]: state for p, state in self.optimizers.state().items()}


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@contextmanager
def _as_one(world: World) -> Iterator[None]:
    """Without the warning that one process saves alone, which it was asked to."""
    with warnings.catch_warnings():
        if world.size == 1:
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _shard(units: Any, world: World) -> list[Any]:  # noqa: ANN401  modules that become FSDP's
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(world.device.type, (world.size,))
    return [fully_shard(unit, mesh=mesh, reshard_after_forward=False) for unit in units]
