"""The training loop of every stage of the demo models: it can be killed at any time and resumes bit for bit."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from exvideo_core.training.ema import EMA
from exvideo_core.training.optimizers import learning_rate, muon_and_adamw
from exvideo_core.training.randomness import generator_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """Settings of one stage."""

    steps: int
    muon_lr: float = 0.012
    adam_lr: float = 1.5e-3
    average: float = 0.99  # decay of the EMA
    warmup: int = 20  # steps
    hold: float = 0.3  # share of the steps at the full rate
    save_every: int = 50  # steps
    seed: int = 0


class Run:
    """A network in training: its optimizers, its EMA and the file that all of it is kept in."""

    def __init__(self, module: nn.Module, config: LoopConfig, file: Path) -> None:
        self.module, self.config, self.file = module, config, file
        self.params = [p for p in module.parameters() if p.requires_grad]
        self.optimizers = muon_and_adamw(self.params, config.muon_lr, config.adam_lr)
        self.ema = EMA(module.state_dict(), config.average)
        self.step = 0
        if file.exists():
            self._resume()

    def train(self, loss_of: Callable[[int, torch.Generator], Tensor], until: int | None = None) -> None:
        """Train to the last step (or `until`); `loss_of` gets the step and its random numbers."""
        config = self.config
        began, shown = time.monotonic(), 0.0
        end = min(config.steps, until or config.steps)
        while self.step < end:
            loss = loss_of(self.step, generator_of(config.seed, self.step))
            loss.backward()
            nn.utils.clip_grad_norm_(self.params, 1.0)
            self.optimizers.step(learning_rate(self.step, config.steps, config.warmup, config.hold))
            self.ema.update(self.module.state_dict())
            self.step += 1
            shown = loss.item() if self.step == 1 else 0.95 * shown + 0.05 * loss.item()
            if self.step % 20 == 0 or self.step == end:
                log.info("%s: step %d, loss %.4f, %.0f s", self.file.stem, self.step, shown, time.monotonic() - began)
            if self.step % config.save_every == 0:
                self.save()
        self.save()

    def save(self) -> None:
        """Write everything; a reader never sees half a file."""
        partial = self.file.with_suffix(".partial")
        torch.save(
            {
                "step": self.step,
                "module": self.module.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer, _ in self.optimizers.parts],
                "average": self.ema.state_dict(),
            },
            partial,
        )
        os.replace(partial, self.file)

    def _resume(self) -> None:
        state = torch.load(self.file, weights_only=True)
        self.step = state["step"]
        self.module.load_state_dict(state["module"])
        for (optimizer, _), saved in zip(self.optimizers.parts, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.ema.load_state_dict(state["average"])
        log.info("%s: resuming at step %d", self.file.stem, self.step)
