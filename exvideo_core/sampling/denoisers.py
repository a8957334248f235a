"""From a network's output to denoised latents, and wrappers around that.

A denoiser is a function (x, sigma) -> denoised: `x` is the clean latents plus `sigma` times unit noise.
Shapes: T frames, C channels, H and W latent height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Denoiser = Callable[[Tensor, Tensor], Tensor]
Velocity = Callable[[Tensor, Tensor], Tensor]  # (scaled x, 0.25 ln sigma) -> v


def v_prediction(velocity: Velocity) -> Denoiser:
    """Denoiser of an SVD network, which sees x at unit variance and predicts v (arXiv:2202.00512, EDM form)."""

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        total = sigma**2 + 1
        v = velocity(x / total.sqrt(), 0.25 * sigma.log())
        return x / total - v.float() * (sigma / total.sqrt())

    return denoise


def pin_frames(denoiser: Denoiser, keyframes: Mapping[int, Tensor], noise_TCHW: Tensor) -> Denoiser:
    """Show the network given frames in place of its own, with the run's own noise at each level.

    They are not put back after the last call, as in DiffSynth-Studio 1.1.9 (svd_video.py): what comes out for them
    is the network's reading of them at the lowest noise level.

    Args:
        denoiser: what to wrap.
        keyframes: clean latents [C, H, W] by frame index.
        noise_TCHW: unit noise the run started from.
    """

    def denoise(x_TCHW: Tensor, sigma: Tensor) -> Tensor:
        x_TCHW = x_TCHW.clone()
        for index, latents_CHW in keyframes.items():
            x_TCHW[index] = latents_CHW + sigma * noise_TCHW[index]
        return denoiser(x_TCHW, sigma)

    return denoise if keyframes else denoiser


def start(noise: Tensor, sigma: Tensor, clean: Tensor | None = None) -> Tensor:
    """Where sampling starts: noise of the right spread, or given latents with noise added."""
    return noise * torch.sqrt(sigma**2 + 1) if clean is None else clean + sigma * noise
