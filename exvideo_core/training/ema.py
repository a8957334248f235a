"""Exponential moving average of weights: the result of a run without the noise of its last steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


class EMA:
    """Average of weights, in float32, sharded like them; each update keeps `decay` of it, the first ones less."""

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

    @contextmanager
    def swapped_in(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """Within it, the weights have the values of the average."""
        self.swap(weights)
        try:
            yield
        finally:
            self.swap(weights)

    def state_dict(self) -> dict[str, object]:
        """The average and its number of updates."""
        return {"updates": self.updates, "weights": self.weights}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Load a saved average."""
        self.updates = int(state["updates"])  # type: ignore[call-overload]  # written by state_dict above
        self.weights = dict(state["weights"])  # type: ignore[call-overload]
