"""CogVideoX's noise levels, its denoiser and its solvers: on problems whose answer is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import repeat

import pytest
import torch
from narrow_svd import noise
from solvers import ddim, dpmpp_2m, dpmpp_2m_sde, euler
from torch import Tensor

from exvideo_core.sampling.denoisers import add_noise, zero_snr_v_prediction
from exvideo_core.sampling.guidance import rising_guidance
from exvideo_core.sampling.schedules import (
    alpha_levels,
    linspace_timesteps,
    num_timesteps,
    trailing_timesteps,
    zero_snr_alphas,
)

CLEAN = noise(1, 4, 3, 2, 2, seed=1)
ALPHAS = alpha_levels(trailing_timesteps(20))
# What the solvers below were recorded with, in diffusers and DiffSynth-Studio
START = torch.tensor([1.0, -0.5, 0.25, 2.0])
FRESH = torch.tensor([0.5, -1.0, 1.5, 0.0])


class CancelError(Exception):
    """What a host raises from a callback."""


def knows_the_answer(x: Tensor, alpha: Tensor) -> Tensor:
    return CLEAN


def of_unit_variance(x: Tensor, alpha: Tensor) -> Tensor:
    return alpha.sqrt() * x  # the best guess for clean ~ N(0, 1)


def velocity(x: Tensor, timestep: Tensor) -> Tensor:
    """A stand-in for a network: smooth, and different at every level."""
    return torch.tanh(x + timestep / 500 - 1)


def sde(draws: Iterator[Tensor]) -> Callable[..., Tensor]:
    return partial(dpmpp_2m_sde, draw=lambda: next(draws))


SOLVERS = {"ddim": ddim, "dpmpp_2m": dpmpp_2m, "dpmpp_2m_sde": sde(repeat(noise(1, 4, 3, 2, 2, seed=3)))}
solvers = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)


def test_levels_are_those_of_diffusers() -> None:
    # CogVideoXDDIMScheduler of diffusers 0.42.1 with the published settings of CogVideoX-5B
    recorded = {
        0: 0.99915,
        1: 0.9982334461401823,
        100: 0.8867612845015072,
        250: 0.6524570153414769,
        500: 0.24101878275731575,
        750: 0.03279911812874219,
        900: 0.0029603934209004134,
        998: 1.967888056621291e-07,
    }
    alphas = zero_snr_alphas()

    assert alphas.shape == (1000,)
    assert alphas.dtype == torch.float32
    torch.testing.assert_close(alphas[list(recorded)], torch.tensor(list(recorded.values())), rtol=1e-6, atol=0)


def test_levels_fall_to_nothing_but_noise() -> None:
    alphas = zero_snr_alphas()

    assert bool((alphas.diff() < 0).all())
    assert alphas[999] == 0


def test_the_reference_s_timesteps_go_from_the_first_to_zero() -> None:
    timesteps = linspace_timesteps(50).tolist()

    assert timesteps[:4] == [999, 979, 958, 938]
    assert timesteps[-3:] == [41, 20, 0]


def test_trailing_timesteps_stop_a_step_above_zero() -> None:
    assert trailing_timesteps(50).tolist() == list(range(999, 0, -20))


@pytest.mark.parametrize("timesteps", [linspace_timesteps, trailing_timesteps])
@pytest.mark.parametrize("denoise", [1.0, 0.5, 0.05])
@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_denoise_starts_further_down_in_as_many_steps(
    steps: int, denoise: float, timesteps: Callable[[int, float], Tensor]
) -> None:
    grid = timesteps(steps, denoise)

    assert grid.shape == (steps,)
    assert grid[0] == round(1000 * denoise) - 1
    assert bool((grid.diff() < 0).all())
    assert grid[-1] >= 0


@pytest.mark.parametrize("timesteps", [linspace_timesteps, trailing_timesteps])
def test_every_timestep_may_be_used_but_none_twice(timesteps: Callable[[int, float], Tensor]) -> None:
    assert timesteps(10, 0.01).tolist() == list(range(9, -1, -1))
    assert num_timesteps(0.01) == 10
    with pytest.raises(ValueError, match=r"steps must be from 1 to 10, .* at denoise 0.01, not 11"):
        timesteps(11, 0.01)


@pytest.mark.parametrize(
    ("steps", "denoise", "message"),
    [(0, 1.0, "steps must be from 1 to 1000"), (5, 0.0, "denoise must be above 0"), (5, 1.1, "at most 1, not 1.1")],
)
def test_impossible_timesteps_are_errors(steps: int, denoise: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        linspace_timesteps(steps, denoise)


def test_a_run_s_levels_are_those_of_its_timesteps_and_a_clean_last_one() -> None:
    levels = alpha_levels(torch.tensor([999, 500, 0]))

    assert torch.equal(levels[:3], zero_snr_alphas()[[999, 500, 0]])
    assert levels[3] == 1


@pytest.mark.parametrize("timestep", [0, 1, 500, 998, 999])
def test_the_true_velocity_gives_the_clean_latents(timestep: int) -> None:
    alpha, unit = zero_snr_alphas()[timestep], noise(1, 4, 3, 2, 2)

    def true_velocity(x: Tensor, at: Tensor) -> Tensor:
        assert int(at) == timestep
        torch.testing.assert_close(x, add_noise(CLEAN, unit, alpha))
        return alpha.sqrt() * unit - (1 - alpha).sqrt() * CLEAN

    denoised = zero_snr_v_prediction(true_velocity)(add_noise(CLEAN, unit, alpha), alpha)

    torch.testing.assert_close(denoised, CLEAN)


def test_the_velocity_may_be_in_half_precision() -> None:
    denoised = zero_snr_v_prediction(lambda x, _: x.half())(noise(1, 4, 2, 2), torch.tensor(0.5))

    assert denoised.dtype == torch.float32


@solvers
@pytest.mark.parametrize("steps", [1, 2, 20])
def test_solvers_end_at_the_denoised_latents(steps: int, solver: Callable[..., Tensor]) -> None:
    x = noise(1, 4, 3, 2, 2)

    torch.testing.assert_close(solver(knows_the_answer, x, alpha_levels(trailing_timesteps(steps))), CLEAN)


@pytest.mark.parametrize("solver", [ddim, dpmpp_2m])
def test_the_noise_of_a_known_clip_stays_on_the_way(solver: Callable[..., Tensor]) -> None:
    unit = noise(1, 4, 3, 2, 2)
    half_way = solver(knows_the_answer, unit, ALPHAS[:11])

    torch.testing.assert_close(half_way, add_noise(CLEAN, unit, ALPHAS[10]))


def test_ddim_is_euler_s_method_at_levels_without_end() -> None:
    alphas = alpha_levels(linspace_timesteps(20, 0.9))
    sigmas = ((1 - alphas) / alphas).sqrt()

    def at_alpha(x: Tensor, alpha: Tensor) -> Tensor:
        return torch.tanh(x + alpha)

    def at_sigma(x: Tensor, sigma: Tensor) -> Tensor:
        alpha = 1 / (1 + sigma**2)
        return at_alpha(x * alpha.sqrt(), alpha)

    x = noise(1, 4, 3, 2, 2)
    torch.testing.assert_close(ddim(at_alpha, x, alphas), euler(at_sigma, x / alphas[0].sqrt(), sigmas))


@pytest.mark.parametrize(("solver", "order"), [(ddim, 1), (dpmpp_2m, 2)])
def test_solvers_converge_to_the_curved_path_of_a_gaussian(solver: Callable[..., Tensor], order: int) -> None:
    x = noise(100).double()

    def error(steps: int) -> float:
        levels = torch.sigmoid(torch.linspace(-6, 6, steps + 1, dtype=torch.float64))
        return float((solver(of_unit_variance, x, levels) - x).abs().max())  # the variance is 1 all the way

    errors = [error(steps) for steps in (50, 100, 200)]
    shrinks = 2**order

    assert errors[0] / errors[1] == pytest.approx(shrinks, rel=0.2)
    assert errors[1] / errors[2] == pytest.approx(shrinks, rel=0.2)


def test_fresh_noise_keeps_the_spread_of_a_gaussian() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20000, generator=generator)

    result = dpmpp_2m_sde(
        of_unit_variance,
        x,
        alpha_levels(linspace_timesteps(200)),
        draw=lambda: torch.randn(20000, generator=generator),
    )

    assert float(result.std()) == pytest.approx(1, abs=0.03)
    assert abs(float((result * x).mean())) < 0.05  # nothing of the first noise is left


@pytest.mark.parametrize(
    ("solver", "timesteps", "first", "recorded"),
    [
        (ddim, linspace_timesteps, 0.0, [0.36263400, 0.16108264, 0.26350933, 0.53458750]),
        (ddim, trailing_timesteps, 0.0, [0.40871322, 0.16717102, 0.28894156, 0.61213994]),
        (dpmpp_2m, trailing_timesteps, 2**-24, [0.46100184, 0.18624540, 0.33846840, 0.67364186]),
        (
            sde(iter([-FRESH, 0 * FRESH, FRESH, -FRESH, 0 * FRESH])),
            trailing_timesteps,
            0.0,
            [0.26877645, 0.45874637, 0.08249235, 0.35410070],
        ),
    ],
    ids=["DiffSynth ddim", "diffusers CogVideoXDDIM", "diffusers DPMSolverMultistep", "diffusers CogVideoXDPM"],
)
def test_solvers_equal_the_record_of_the_references(
    solver: Callable[..., Tensor], timesteps: Callable[[int], Tensor], first: float, recorded: list[float]
) -> None:
    # DiffSynth-Studio 1.1.9 and diffusers 0.42.1, of which DPMSolverMultistep has 2^-24 for the level of pure noise
    levels = alpha_levels(timesteps(5))
    levels[0] = first

    result = solver(zero_snr_v_prediction(velocity), START, levels)

    torch.testing.assert_close(result, torch.tensor(recorded), rtol=3e-6, atol=0)


@solvers
def test_solvers_report_each_step_with_what_they_denoised(solver: Callable[..., Tensor]) -> None:
    reports: list[tuple[int, int, Tensor]] = []

    solver(knows_the_answer, noise(1, 4, 3, 2, 2), ALPHAS[-4:], lambda *report: reports.append(report))

    assert [report[:2] for report in reports] == [(1, 3), (2, 3), (3, 3)]
    assert all(torch.equal(report[2], CLEAN) for report in reports)


@solvers
def test_an_exception_from_the_callback_stops_the_run(solver: Callable[..., Tensor]) -> None:
    calls: list[float] = []

    def counting(x: Tensor, alpha: Tensor) -> Tensor:
        calls.append(float(alpha))
        return x

    def cancel(step: int, steps: int, denoised: Tensor) -> None:
        if step == 2:
            raise CancelError

    with pytest.raises(CancelError):
        solver(counting, noise(1, 4, 3, 2, 2), ALPHAS, cancel)
    assert len(calls) == 2


def test_rising_guidance_starts_at_none_and_rises_late() -> None:
    scales = rising_guidance(50, 6.0)

    assert len(scales) == 50
    assert scales[0] == 1
    assert scales[25] == pytest.approx(1.0144, abs=1e-3)
    assert scales[49] == pytest.approx(6.86, abs=0.01)
    assert scales == sorted(scales)
