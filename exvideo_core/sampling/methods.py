"""A sampling method: which noise levels, and which solver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ..runtime.resume import Recording
from .denoisers import Denoiser
from .levels import Levels
from .samplers import Callback, NoiseSource, solve


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way from noise to latents. A family has a table of them by name; the first one is its default."""

    # (steps, denoise) -> the run's levels in the family's terms: sigmas [steps + 1] with a last 0, or timesteps [steps]
    schedule: Callable[[int, float], Tensor]
    order: int = 1  # 1 is Euler's method, or DDIM; 2 is DPM-Solver++ 2M
    is_stochastic: bool = False  # each step replaces part of the noise with fresh noise (SDE)

    def solve(
        self,
        denoiser: Denoiser,
        x: Tensor,
        levels: Levels,
        callback: Callback | None = None,
        recording: Recording | None = None,
        *,
        draw: NoiseSource | None = None,
    ) -> Tensor:
        """Take latents from the first level to the last; the arguments are those of `samplers.solve`."""
        if self.is_stochastic and draw is None:
            raise ValueError("this method needs fresh noise: give draw")
        fresh = draw if self.is_stochastic else None
        return solve(denoiser, x, levels, callback, recording, order=self.order, draw=fresh)
