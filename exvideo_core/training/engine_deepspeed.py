"""Gradients and optimizer steps by DeepSpeed's ZeRO stage 2, for clusters that are set up for it.

DeepSpeed flattens and shards by itself, so a run resumes only with the number of processes that it began with. It gets
the trained modules alone, whose weights are float32: bf16 stays off in its configuration, where it would round them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ExVideoError
from ..runtime.distributed import World
from .ema import EMA
from .engine import TorchEngine
from .safe_load import safe_load
from .settings import OptimizerConfig

_TAG = "state"


class DeepSpeedEngine(TorchEngine):
    """ZeRO stage 2 with AdamW; `count` is the losses of this process in a step."""

    def __init__(
        self, units: Mapping[str, nn.Module], config: OptimizerConfig, average: float, world: World, count: int
    ) -> None:
        try:
            import deepspeed
        except ImportError as error:
            raise ExVideoError(
                "run.engine deepspeed needs the package deepspeed, which is not installed: pip install deepspeed; "
                "or choose fsdp, which needs nothing more."
            ) from error
        self.config, self.world = config, world
        self._sharded = []
        self.weights = {f"{unit}.{name}": p for unit, module in units.items() for name, p in module.named_parameters()}
        backend = "nccl" if world.device.type == "cuda" else "gloo"
        deepspeed.init_distributed(backend, auto_mpi_discovery=False, verbose=False)
        betas = config.beta1, config.beta2
        self._engine, *_ = deepspeed.initialize(
            model=_Caller(units.values()),
            optimizer=torch.optim.AdamW(
                self.weights.values(), lr=config.learning_rate, betas=betas, weight_decay=config.weight_decay
            ),
            config={
                "train_micro_batch_size_per_gpu": 1,
                "gradient_accumulation_steps": count,
                "gradient_clipping": config.clip_norm,
                "zero_optimization": {"stage": 2},
                "zero_allow_untested_optimizer": True,
                "steps_per_print": 1_000_000_000,
            },
        )
        self.ema = EMA(self.weights, average) if average else None

    def backward(self, losses: Iterator[Callable[[], Tensor]], count: int) -> list[float]:
        """See `TorchEngine`. DeepSpeed counts the losses of a step: `step` is also called after all but the last."""
        values = []
        for loss_of in losses:
            loss = self._engine(loss_of)
            self._engine.backward(loss)  # divides by the count itself
            values.append(float(loss.detach()))
            if len(values) < count:
                self._engine.step()  # only counts
        return values

    def step(self, rate: float) -> float:
        for group in self._engine.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * rate
        self._engine.step()
        if self.ema:
            self.ema.update(self.weights)
        return float(self._engine.get_global_grad_norm() or 0.0)

    def _held(self) -> tuple[list[Tensor], list[Tensor]]:
        zero = self._engine.optimizer
        moments = [t for state in zero.optimizer.state.values() for t in state.values() if isinstance(t, Tensor)]
        # the weights are there twice: whole, and the shard to step from
        return [*self.weights.values(), *zero.single_partition_of_fp32_groups], moments

    def save(self, folder: Path) -> None:
        self._engine.save_checkpoint(str(folder), tag=_TAG)
        if self.world.is_first:
            (folder / "world.json").write_text(json.dumps(self.world.size), encoding="utf-8")
            if self.ema:
                torch.save(self.ema.state_dict(), folder / "average.pt")

    def load(self, folder: Path) -> None:
        """See `TorchEngine`; ExVideoError if the checkpoint is of another number of processes."""
        saved = json.loads((folder / "world.json").read_text(encoding="utf-8"))
        if saved != self.world.size:
            raise ExVideoError(
                f"{folder} was written by {saved} processes, and DeepSpeed resumes only with the same number, not with "
                f"{self.world.size}. Start {saved}, or use run.engine fsdp, which has no such limit, from the start."
            )
        # what its checkpoints have besides tensors and plain values
        from deepspeed.runtime.fp16.loss_scaler import LossScaler
        from deepspeed.runtime.zero.config import ZeroStageEnum
        from deepspeed.utils.tensor_fragment import fragment_address

        with safe_load(folder, LossScaler, ZeroStageEnum, fragment_address):
            self._engine.load_checkpoint(str(folder), tag=_TAG)
            if self.ema:
                average = torch.load(folder / "average.pt", weights_only=True, map_location=self.world.device)
                self.ema.load_state_dict(average)


class _Caller(nn.Module):
    """The trained modules as a network for DeepSpeed. Calling it calls the function it is given."""

    def __init__(self, units: Any) -> None:  # noqa: ANN401  an iterable of modules
        super().__init__()
        self.units = nn.ModuleList(units)

    def forward(self, loss_of: Callable[[], Tensor]) -> Tensor:
        return loss_of()
