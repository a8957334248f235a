"""One solver is Euler's method, DDIM and DPM-Solver++ 2M: against each one's own formula, in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
import torch
from narrow_svd import noise
from solvers import ddim, dpmpp_2m, dpmpp_2m_sde, dpmpp_2m_sigmas, euler
from torch import Tensor

from exvideo_core.errors import NumberError
from exvideo_core.sampling.levels import Levels
from exvideo_core.sampling.methods import Method
from exvideo_core.sampling.samplers import solve
from exvideo_core.sampling.schedules import alpha_levels, karras_sigmas, linspace_timesteps, trailing_timesteps

STEPS = 12
X = noise(2, 4, 3, 3).double()
FRESH = [noise(2, 4, 3, 3, seed=seed).double() for seed in range(1, STEPS + 1)]
SIGMAS = karras_sigmas(STEPS).double()
ALPHAS = [alpha_levels(grid(STEPS)).double() for grid in (linspace_timesteps, trailing_timesteps)]

Step = Callable[[Tensor, Tensor, Tensor | None, Tensor], Tensor]  # x, denoised, the one before, levels so far


def denoise(x: Tensor, level: Tensor) -> Tensor:
    return torch.tanh(x / (1 + level) + level / 7)


def run(step: Step, x: Tensor, levels: Tensor) -> Tensor:
    earlier = None
    for i in range(STEPS):
        denoised = denoise(x, levels[i])
        x, earlier = step(x, denoised, earlier, levels[: i + 2]), denoised
    return x


def euler_step(x: Tensor, denoised: Tensor, _earlier: Tensor | None, sigmas: Tensor) -> Tensor:
    sigma, following = sigmas[-2:]
    return x + (x - denoised) / sigma * (following - sigma)


def ddim_step(x: Tensor, denoised: Tensor, _earlier: Tensor | None, alphas: Tensor) -> Tensor:
    now, following = alphas[-2:]
    ratio = ((1 - following) / (1 - now)).sqrt()
    return ratio * x + (following.sqrt() - ratio * now.sqrt()) * denoised


def half_a_step_ahead(denoised: Tensor, earlier: Tensor | None, log_snr: Tensor) -> Tensor:
    if earlier is None:
        return denoised
    last, ahead = log_snr[-3:].diff()
    weight = ahead / (2 * last)
    return denoised + weight * (denoised - earlier) if bool(weight.isfinite()) else denoised


def dpmpp_sigma_step(x: Tensor, denoised: Tensor, earlier: Tensor | None, sigmas: Tensor) -> Tensor:
    return torch.lerp(half_a_step_ahead(denoised, earlier, -2 * sigmas.log()), x, sigmas[-1] / sigmas[-2])


def dpmpp_step(x: Tensor, denoised: Tensor, earlier: Tensor | None, alphas: Tensor) -> Tensor:
    return ddim_step(x, half_a_step_ahead(denoised, earlier, torch.logit(alphas)), None, alphas)


def sde_step(draws: Iterator[Tensor]) -> Step:
    def step(x: Tensor, denoised: Tensor, earlier: Tensor | None, alphas: Tensor) -> Tensor:
        target = half_a_step_ahead(denoised, earlier, torch.logit(alphas))
        now, following = alphas[-2:]
        ratio = (1 - following) / (1 - now)
        kept = ratio * now / following
        x = (ratio * kept).sqrt() * x + following.sqrt() * (1 - kept) * target
        return x + ((1 - following) * (1 - kept)).sqrt() * next(draws)

    return step


@pytest.mark.parametrize(
    ("solver", "step", "x", "levels"),
    [
        (euler, euler_step, 700 * X, SIGMAS),
        (dpmpp_2m_sigmas, dpmpp_sigma_step, 700 * X, SIGMAS),
        *((ddim, ddim_step, X, alphas) for alphas in ALPHAS),
        *((dpmpp_2m, dpmpp_step, X, alphas) for alphas in ALPHAS),
    ],
)
def test_each_name_is_its_formula(solver: Callable[..., Tensor], step: Step, x: Tensor, levels: Tensor) -> None:
    rounding = 4 * torch.finfo(torch.float64).eps * float(x.max())

    torch.testing.assert_close(solver(denoise, x, levels), run(step, x, levels), rtol=0, atol=rounding)


@pytest.mark.parametrize("alphas", ALPHAS)
def test_fresh_noise_is_added_as_in_its_formula(alphas: Tensor) -> None:
    ours = dpmpp_2m_sde(denoise, X, alphas, draw=iter(FRESH).__next__)

    torch.testing.assert_close(ours, run(sde_step(iter(FRESH)), X, alphas), rtol=0, atol=1e-15)


@pytest.mark.parametrize("steps", [1, 4])
def test_a_straight_path_of_flow_matching_is_exact(steps: int) -> None:
    noise_share = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    clean = torch.tanh(X)

    result = solve(lambda *_: clean, X, Levels(1 - noise_share, noise_share, noise_share))

    torch.testing.assert_close(result, clean, rtol=0, atol=1e-15)


def test_flow_matching_s_euler_is_the_solver_s_first_order() -> None:
    times = torch.linspace(1, 0, STEPS + 1, dtype=torch.float64)
    x = X
    for now, following in pairwise(times):
        velocity = (x - denoise(x, now)) / now  # noise - clean
        x = x + (following - now) * velocity

    torch.testing.assert_close(solve(denoise, X, Levels(1 - times, times, times)), x, rtol=0, atol=4e-15)


@pytest.mark.parametrize("levels", [Levels.from_sigmas(SIGMAS), Levels.from_alphas(ALPHAS[0])], ids=["sigma", "alpha"])
def test_the_start_has_the_spread_of_noisy_latents(levels: Levels) -> None:
    clean = torch.ones_like(X)

    torch.testing.assert_close(levels.start(X, clean), levels.signal[0] * clean + levels.noise[0] * X)
    torch.testing.assert_close(levels.start(X), (levels.signal[0] ** 2 + levels.noise[0] ** 2).sqrt() * X)


def test_a_number_error_says_the_step() -> None:
    def failing(x: Tensor, level: Tensor) -> Tensor:
        if level == SIGMAS[3]:
            raise NumberError("NaN came up")
        return x

    with pytest.raises(NumberError, match=f"step 4 of {STEPS}"):
        euler(failing, X, SIGMAS)


def test_a_stochastic_method_needs_a_source_of_noise() -> None:
    method = Method(schedule=trailing_timesteps, is_stochastic=True)

    with pytest.raises(ValueError, match="needs fresh noise"):
        method.solve(denoise, X, Levels.from_alphas(ALPHAS[0]))
