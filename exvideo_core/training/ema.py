"""Averaged weights: what a run has come to, without the noise of its last steps."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class AveragedWeights:
    """Exponential moving average of weights, in float32; the first steps count evenly.

    Args:
        weights: by name; sharded ones have a sharded average.
        decay: share of the old average at each update.
    """

    def __init__(self, weights: Mapping[str, Tensor], decay: float = 0.99) -> None:
        self.decay = decay
        self.updates = 0
        self.weights = {name: p.detach().float().clone() for name, p in weights.items()}

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor]) -> None:
        """Move towards the weights."""
        self.updates += 1
        decay = min(self.decay, self.updates / (self.updates + 10))
        for name, p in weights.items():
            self.weights[name].lerp_(p.float(), 1 - decay)

    @torch.no_grad()
    def swap(self, weights: Mapping[str, Tensor]) -> None:
        """Exchange the average and float32 weights, in place."""
        for name, p in weights.items():
            kept = p.detach().clone()
            p.copy_(self.weights[name])
            self.weights[name].copy_(kept)

    def state_dict(self) -> dict[str, object]:
        """The average and how many updates made it."""
        return {"updates": self.updates, "weights": self.weights}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Take over a saved average."""
        self.updates = int(state["updates"])  # type: ignore[call-overload]  # written by state_dict above
        self.weights = dict(state["weights"])  # type: ignore[call-overload]
