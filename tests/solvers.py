"""The solver's special cases by the names that papers give them.

`euler` and `dpmpp_2m_sigmas` take levels sigma [steps + 1], decreasing, the others levels alpha, increasing.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from exvideo_core.sampling.denoisers import Denoiser
from exvideo_core.sampling.levels import Levels
from exvideo_core.sampling.samplers import NoiseSource, solve


def euler(denoiser: Denoiser, x: Tensor, sigmas: Tensor, *options: Any) -> Tensor:
    return solve(denoiser, x, Levels.from_sigmas(sigmas), *options)


def dpmpp_2m_sigmas(denoiser: Denoiser, x: Tensor, sigmas: Tensor, *options: Any) -> Tensor:
    return solve(denoiser, x, Levels.from_sigmas(sigmas), *options, order=2)


def ddim(denoiser: Denoiser, x: Tensor, alphas: Tensor, *options: Any) -> Tensor:
    return solve(denoiser, x, Levels.from_alphas(alphas), *options)


def dpmpp_2m(denoiser: Denoiser, x: Tensor, alphas: Tensor, *options: Any) -> Tensor:
    return solve(denoiser, x, Levels.from_alphas(alphas), *options, order=2)


def dpmpp_2m_sde(denoiser: Denoiser, x: Tensor, alphas: Tensor, *options: Any, draw: NoiseSource) -> Tensor:
    return solve(denoiser, x, Levels.from_alphas(alphas), *options, order=2, draw=draw)
