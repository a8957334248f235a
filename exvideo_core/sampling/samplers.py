"""The solver that takes latents from noise to clean. Without fresh noise it follows the probability flow ODE."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

from ..errors import NumberError
from ..runtime.resume import Point, Recording
from .denoisers import Denoiser
from .levels import Levels

# (step done, from 1; steps in all; denoised latents of that step); may raise to stop the run
Callback = Callable[[int, int, Tensor], None]
NoiseSource = Callable[[], Tensor]  # the next unit noise


def solve(
    denoiser: Denoiser,
    x: Tensor,
    levels: Levels,
    callback: Callback | None = None,
    recording: Recording | None = None,
    *,
    order: int = 1,
    draw: NoiseSource | None = None,
) -> Tensor:
    """Take latents from the first level to the last.

    At a level, x = a * clean + s * unit noise. A step scales x by c and adds the target to reach the next signal a':

        x' = c x + (a' - a c) target,    c = s' / s

    The target is the denoised latents: Euler's method (arXiv:2206.00364, algorithm 1) at a = 1 and DDIM
    (arXiv:2010.02502, eq. 12) at a^2 + s^2 = 1. In second order it is extrapolated in log(a / s), by half a step, from
    the last two: DPM-Solver++ 2M (arXiv:2211.01095, algorithm 2). With fresh noise c is smaller by a s' / (a' s), and
    the noise makes up the rest of s': SDE-DPM-Solver++ 2M (same paper).

    Args:
        denoiser: (x, level) -> denoised.
        x: latents at the first level; float32, as half precision loses the picture at sigma 700.
        levels: a last one without noise ends at the denoised latents.
        recording: a saved run to resume from, and to report progress to.
        order: 1, or 2 to extrapolate from the last two steps.
        draw: gives unit noise of x's shape, once a step; a resumed run needs its generator restored.

    Raises:
        NumberError: NaN or Inf came up; says in which step.
    """
    keep, gain, fresh = _coefficients(levels, is_stochastic=draw is not None)
    weights = _extrapolation(levels)
    at = (recording and recording.start) or Point(0, x)
    for done in range(at.step + 1, levels.steps + 1):
        i = done - 1
        with _recorded(recording, at, in_step=True):
            try:
                denoised = denoiser(at.x, levels.values[i])
            except NumberError as error:
                raise error.at(f"step {done} of {levels.steps}") from error
        target = denoised
        if at.earlier is not None and weights[i]:
            target = denoised + weights[i] * (denoised - at.earlier)
        x = keep[i] * at.x + gain[i] * target
        if draw:
            x = x + fresh[i] * draw().to(x)
        at = Point(done, x, denoised if order > 1 else None)
        with _recorded(recording, at, in_step=False):
            if callback:
                callback(done, levels.steps, denoised)
        if recording:
            recording.keep(at)
    return at.x


def _coefficients(levels: Levels, *, is_stochastic: bool) -> tuple[list[float], list[float], list[float]]:
    """Factors of x, of the target and of fresh noise for each step, computed in float64."""
    signal, noise = levels.signal, levels.noise
    keep = noise[1:] / noise[:-1]
    # exp(-h) with h the step in log(a / s)
    decay = keep * signal[:-1] / signal[1:] if is_stochastic else keep.new_ones(())
    keep = keep * decay
    gain, fresh = signal[1:] - signal[:-1] * keep, noise[1:] * (1 - decay**2).sqrt()
    return keep.tolist(), gain.tolist(), fresh.tolist()


def _extrapolation(levels: Levels) -> list[float]:
    """Weight of the last change of the denoised latents in each step's target; 0 next to an infinite log(a / s)."""
    step = (levels.signal / levels.noise).log().diff()
    weight = step[1:] / (2 * step[:-1])
    return [0.0, *weight.where(weight.isfinite(), 0).tolist()]


@contextmanager
def _recorded(recording: Recording | None, at: Point, *, in_step: bool) -> Iterator[None]:
    """Save where the run stands if it is cancelled or runs out of memory."""
    try:
        yield
    except BaseException:
        if recording:
            recording.stop(at, in_step=in_step)
        raise
