"""Denoisers: from a network's v prediction to denoised latents.

A denoiser is a function (x, level) -> denoised, in one of two forms:
- sigma: `x` is the clean latents plus `sigma` times unit noise (SVD);
- alpha: `x` is sqrt(alpha) times the clean latents plus sqrt(1 - alpha) times unit noise (CogVideoX). Only this form
  has a level of pure noise, alpha 0. Otherwise they are equivalent, with sigma^2 = (1 - alpha) / alpha.
Shapes: T frames, C channels, H and W latent height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from .schedules import zero_snr_alphas

Denoiser = Callable[[Tensor, Tensor], Tensor]
Velocity = Callable[[Tensor, Tensor], Tensor]  # (x at unit variance, the level as the network counts it) -> v


def v_prediction(velocity: Velocity) -> Denoiser:
    """Denoiser of an SVD network, (scaled x, 0.25 ln sigma) -> v (arXiv:2202.00512, EDM form)."""

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        total = sigma**2 + 1
        v = velocity(x / total.sqrt(), 0.25 * sigma.log())
        return x / total - v.float() * (sigma / total.sqrt())

    return denoise


def zero_snr_v_prediction(velocity: Velocity) -> Denoiser:
    """Denoiser of a CogVideoX network, (x, timestep 0 to 999) -> v (arXiv:2202.00512), at levels alpha."""
    alphas = zero_snr_alphas()

    def denoise(x: Tensor, alpha: Tensor) -> Tensor:
        timestep = (alphas - alpha).abs().argmin()
        return alpha.sqrt() * x - (1 - alpha).sqrt() * velocity(x, timestep).float()

    return denoise


def pin_frames(denoiser: Denoiser, keyframes: Mapping[int, Tensor], noise_TCHW: Tensor) -> Denoiser:
    """Replace frames of the network's input by keyframes, with the run's own noise at each level.

    They are not replaced after the last call, as in DiffSynth-Studio 1.1.9 (svd_video.py), so the result has the
    network's prediction of them at the lowest noise level.

    Args:
        keyframes: clean latents [C, H, W] by frame index.
        noise_TCHW: unit noise the run started from.
    """

    def denoise(x_TCHW: Tensor, sigma: Tensor) -> Tensor:
        x_TCHW = x_TCHW.clone()
        for index, latents_CHW in keyframes.items():
            x_TCHW[index] = latents_CHW + sigma * noise_TCHW[index]
        return denoiser(x_TCHW, sigma)

    return denoise if keyframes else denoiser


def add_noise(clean: Tensor, noise: Tensor, alpha: Tensor) -> Tensor:
    """Clean latents with unit noise added, at the level alpha."""
    return alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
