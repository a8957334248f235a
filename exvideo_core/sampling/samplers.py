"""Solvers of the probability flow ODE, one function each, all of the form (denoiser, x, sigmas, callback)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from .denoisers import Denoiser

# step done (from 1), steps in all, denoised latents of that step; may raise to stop the run
Callback = Callable[[int, int, Tensor], None]


def euler(denoiser: Denoiser, x: Tensor, sigmas: Tensor, callback: Callback | None = None) -> Tensor:
    """Euler's method (arXiv:2206.00364, algorithm 1 without the second-order correction).

    Args:
        denoiser: (x, sigma) -> denoised.
        x: noisy latents at the first level; float32, for at sigma 700 half precision loses the picture.
        sigmas: [steps + 1], decreasing; a last one of 0 ends at the denoised latents.
        callback: called after each step.

    Returns:
        Latents at the last level.
    """
    steps = len(sigmas) - 1
    for step in range(steps):
        sigma, sigma_next = sigmas[step], sigmas[step + 1]
        denoised = denoiser(x, sigma)
        x = x + (x - denoised) / sigma * (sigma_next - sigma)
        if callback:
            callback(step + 1, steps, denoised)
    return x
