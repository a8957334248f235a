"""Solvers from noise to latents, one function each, all of the form (denoiser, x, levels, callback).

`euler` and `dpmpp_2m_sigmas` take levels sigma, the others alpha: see `denoisers`. Without fresh noise all follow the
probability flow ODE.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .denoisers import Denoiser

# step done (from 1), steps in all, denoised latents of that step; may raise to stop the run
Callback = Callable[[int, int, Tensor], None]
NoiseSource = Callable[[], Tensor]  # the next unit noise


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


def dpmpp_2m_sigmas(denoiser: Denoiser, x: Tensor, sigmas: Tensor, callback: Callback | None = None) -> Tensor:
    """DPM-Solver++ 2M (arXiv:2211.01095, algorithm 2): what `dpmpp_2m` is, for levels sigma.

    The arguments are those of `euler`.
    """
    steps, denoised = len(sigmas) - 1, None
    for step in range(steps):
        earlier, denoised = denoised, denoiser(x, sigmas[step])
        target = _extrapolate(denoised, earlier, -2 * sigmas[: step + 2].log())
        x = torch.lerp(target, x, sigmas[step + 1] / sigmas[step])
        if callback:
            callback(step + 1, steps, denoised)
    return x


def ddim(denoiser: Denoiser, x: Tensor, alphas: Tensor, callback: Callback | None = None) -> Tensor:
    """DDIM without fresh noise (arXiv:2010.02502, eq. 12): Euler's method, also from pure noise.

    Args:
        denoiser: (x, alpha) -> denoised.
        x: latents at the first level; float32.
        alphas: [steps + 1], increasing; a last one of 1 ends at the denoised latents.
        callback: called after each step.

    Returns:
        Latents at the last level.
    """
    steps = len(alphas) - 1
    for step in range(steps):
        denoised = denoiser(x, alphas[step])
        x = _towards(denoised, x, alphas[step], alphas[step + 1])
        if callback:
            callback(step + 1, steps, denoised)
    return x


def dpmpp_2m(denoiser: Denoiser, x: Tensor, alphas: Tensor, callback: Callback | None = None) -> Tensor:
    """DPM-Solver++ 2M (arXiv:2211.01095, algorithm 2): DDIM towards where the last two denoised latents point.

    The arguments are those of `ddim`.
    """
    steps, denoised = len(alphas) - 1, None
    for step in range(steps):
        earlier, denoised = denoised, denoiser(x, alphas[step])
        target = _extrapolate(denoised, earlier, torch.logit(alphas[: step + 2]))
        x = _towards(target, x, alphas[step], alphas[step + 1])
        if callback:
            callback(step + 1, steps, denoised)
    return x


def dpmpp_2m_sde(
    denoiser: Denoiser, x: Tensor, alphas: Tensor, callback: Callback | None = None, *, draw: NoiseSource
) -> Tensor:
    """SDE-DPM-Solver++ 2M (arXiv:2211.01095), which CogVideoX's authors sample their 5B model with.

    Each step replaces part of the noise by fresh noise, which evens out the errors of the steps before.

    Args:
        denoiser, x, alphas, callback: as in `ddim`.
        draw: gives unit noise of x's shape, once a step.
    """
    steps, denoised = len(alphas) - 1, None
    for step in range(steps):
        earlier, denoised = denoised, denoiser(x, alphas[step])
        target = _extrapolate(denoised, earlier, torch.logit(alphas[: step + 2]))
        now, following = alphas[step], alphas[step + 1]
        ratio = (1 - following) / (1 - now)
        kept = ratio * now / following  # exp(-2 h), h being the step in half the log-SNR
        x = (ratio * kept).sqrt() * x + following.sqrt() * (1 - kept) * target
        x = x + ((1 - following) * (1 - kept)).sqrt() * draw().to(x)
        if callback:
            callback(step + 1, steps, denoised)
    return x


def _towards(target: Tensor, x: Tensor, now: Tensor, following: Tensor) -> Tensor:
    """From one level alpha to the next, with `target` as the clean latents of both."""
    ratio = ((1 - following) / (1 - now)).sqrt()
    return ratio * x + (following.sqrt() - ratio * now.sqrt()) * target


def _extrapolate(denoised: Tensor, earlier: Tensor | None, log_snr: Tensor) -> Tensor:
    """Denoised latents half a step ahead, in log-SNR, by the ones before; as they are next to an infinite log-SNR.

    Args:
        log_snr: of the levels so far, and of the one to come.
    """
    if earlier is None:
        return denoised
    last, ahead = log_snr[-3:].diff()
    weight = ahead / (2 * last)
    return denoised + weight * (denoised - earlier) if bool(weight.isfinite()) else denoised
