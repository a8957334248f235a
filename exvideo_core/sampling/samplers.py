"""Solvers from noise to latents, one function each, all of the form (denoiser, x, levels, callback, recording).

`euler` and `dpmpp_2m_sigmas` take levels sigma, the others alpha: see `denoisers`. Without fresh noise all follow the
probability flow ODE.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ..runtime.resume import Point, Recording
from .denoisers import Denoiser

# step done (from 1), steps in all, denoised latents of that step; may raise to stop the run
Callback = Callable[[int, int, Tensor], None]
NoiseSource = Callable[[], Tensor]  # the next unit noise
Solver = Callable[[Denoiser, Tensor, Tensor, Callback | None, Recording | None], Tensor]


# (where a run stands, denoised latents there, levels so far and the one to come) -> latents at that one
Step = Callable[[Point, Tensor, Tensor], Tensor]


def euler(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    callback: Callback | None = None,
    recording: Recording | None = None,
) -> Tensor:
    """Euler's method (arXiv:2206.00364, algorithm 1 without the second-order correction).

    Args:
        denoiser: (x, sigma) -> denoised.
        x: noisy latents at the first level; float32, for at sigma 700 half precision loses the picture.
        sigmas: [steps + 1], decreasing; a last one of 0 ends at the denoised latents.
        callback: called after each step.
        recording: where to go on in place of the beginning, and what is told how far the run is.

    Returns:
        Latents at the last level.
    """

    def step(at: Point, denoised: Tensor, sigmas: Tensor) -> Tensor:
        sigma, sigma_next = sigmas[-2:]
        return at.x + (at.x - denoised) / sigma * (sigma_next - sigma)

    return _run(step, denoiser, x, sigmas, callback, recording, looks_back=False)


def dpmpp_2m_sigmas(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    callback: Callback | None = None,
    recording: Recording | None = None,
) -> Tensor:
    """DPM-Solver++ 2M (arXiv:2211.01095, algorithm 2): what `dpmpp_2m` is, for levels sigma.

    The arguments are those of `euler`.
    """

    def step(at: Point, denoised: Tensor, sigmas: Tensor) -> Tensor:
        target = _extrapolate(denoised, at.earlier, -2 * sigmas.log())
        return torch.lerp(target, at.x, sigmas[-1] / sigmas[-2])

    return _run(step, denoiser, x, sigmas, callback, recording)


def ddim(
    denoiser: Denoiser,
    x: Tensor,
    alphas: Tensor,
    callback: Callback | None = None,
    recording: Recording | None = None,
) -> Tensor:
    """DDIM without fresh noise (arXiv:2010.02502, eq. 12): Euler's method, also from pure noise.

    Args:
        denoiser: (x, alpha) -> denoised.
        x: latents at the first level; float32.
        alphas: [steps + 1], increasing; a last one of 1 ends at the denoised latents.
        callback, recording: as in `euler`.

    Returns:
        Latents at the last level.
    """

    def step(at: Point, denoised: Tensor, alphas: Tensor) -> Tensor:
        return _towards(denoised, at.x, alphas[-2], alphas[-1])

    return _run(step, denoiser, x, alphas, callback, recording, looks_back=False)


def dpmpp_2m(
    denoiser: Denoiser,
    x: Tensor,
    alphas: Tensor,
    callback: Callback | None = None,
    recording: Recording | None = None,
) -> Tensor:
    """DPM-Solver++ 2M (arXiv:2211.01095, algorithm 2): DDIM towards where the last two denoised latents point.

    The arguments are those of `ddim`.
    """

    def step(at: Point, denoised: Tensor, alphas: Tensor) -> Tensor:
        target = _extrapolate(denoised, at.earlier, torch.logit(alphas))
        return _towards(target, at.x, alphas[-2], alphas[-1])

    return _run(step, denoiser, x, alphas, callback, recording)


def dpmpp_2m_sde(
    denoiser: Denoiser,
    x: Tensor,
    alphas: Tensor,
    callback: Callback | None = None,
    recording: Recording | None = None,
    *,
    draw: NoiseSource,
) -> Tensor:
    """SDE-DPM-Solver++ 2M (arXiv:2211.01095), which CogVideoX's authors sample their 5B model with.

    Each step replaces part of the noise by fresh noise, which evens out the errors of the steps before.

    Args:
        denoiser, x, alphas, callback, recording: as in `ddim`.
        draw: gives unit noise of x's shape, once a step; to go on, it has to be where it was.
    """

    def step(at: Point, denoised: Tensor, alphas: Tensor) -> Tensor:
        target = _extrapolate(denoised, at.earlier, torch.logit(alphas))
        now, following = alphas[-2:]
        ratio = (1 - following) / (1 - now)
        kept = ratio * now / following  # exp(-2 h), h being the step in half the log-SNR
        x = (ratio * kept).sqrt() * at.x + following.sqrt() * (1 - kept) * target
        return x + ((1 - following) * (1 - kept)).sqrt() * draw().to(x)

    return _run(step, denoiser, x, alphas, callback, recording)


def _run(
    step: Step,
    denoiser: Denoiser,
    x: Tensor,
    levels: Tensor,
    callback: Callback | None,
    recording: Recording | None,
    *,
    looks_back: bool = True,
) -> Tensor:
    """From the first level, or from where the recording ends, to the last.

    Args:
        looks_back: whether the solver needs the denoised latents of the step before.
    """
    steps = len(levels) - 1
    at = (recording and recording.start) or Point(0, x)
    for done in range(at.step + 1, steps + 1):
        with _stopping(recording, at, in_step=True):
            denoised = denoiser(at.x, levels[done - 1])
        at = Point(done, step(at, denoised, levels[: done + 1]), denoised if looks_back else None)
        with _stopping(recording, at, in_step=False):
            if callback:
                callback(done, steps, denoised)
        if recording:
            recording.keep(at)
    return at.x


@contextmanager
def _stopping(recording: Recording | None, at: Point, *, in_step: bool) -> Iterator[None]:
    """In it, where the run ends before its time, by Cancel or without memory, where it stood is noted."""
    try:
        yield
    except BaseException:
        if recording:
            recording.stop(at, in_step=in_step)
        raise


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
