"""Noise levels, denoisers, guidance, solvers: on problems whose answer is known."""

from __future__ import annotations

import pytest
import torch
from narrow_svd import noise
from solvers import dpmpp_2m, dpmpp_2m_sigmas, euler
from torch import Tensor

from exvideo_core.sampling.denoisers import pin_frames, v_prediction
from exvideo_core.sampling.guidance import frame_guidance, guide
from exvideo_core.sampling.levels import Levels
from exvideo_core.sampling.postprocess import normalize_frames
from exvideo_core.sampling.schedules import karras_sigmas

CLEAN = noise(3, 4, 2, 2, seed=1)


class CancelError(Exception):
    """What a host raises from a callback."""


def knows_the_answer(x: Tensor, sigma: Tensor) -> Tensor:
    return CLEAN


@pytest.mark.parametrize("denoise", [1.0, 0.5, 0.01])
@pytest.mark.parametrize("steps", [1, 2, 25])
def test_levels_fall_to_zero_in_as_many_steps_as_asked(steps: int, denoise: float) -> None:
    sigmas = karras_sigmas(steps, denoise)

    assert sigmas.shape == (steps + 1,)
    assert sigmas.dtype == torch.float32
    assert bool((sigmas.diff() < 0).all())
    assert sigmas[-1] == 0


def test_levels_span_what_svd_was_trained_for() -> None:
    sigmas = karras_sigmas(25)

    torch.testing.assert_close(sigmas[[0, -2]], torch.tensor([700.0, 0.002]))


def test_levels_are_evenly_spaced_in_their_seventh_root() -> None:
    roots = karras_sigmas(25)[:-1].double() ** (1 / 7)

    torch.testing.assert_close(roots.diff(), roots.diff().mean().expand(24), rtol=1e-4, atol=0)


def test_denoise_starts_part_of_the_way_down() -> None:
    assert float(karras_sigmas(20, 0.5)[0]) == pytest.approx(15.59, abs=0.01)


@pytest.mark.parametrize(
    ("steps", "denoise", "message"),
    [(0, 1.0, "steps must be at least 1"), (5, 0.0, "denoise must be above 0"), (5, 1.1, "at most 1, not 1.1")],
)
def test_impossible_levels_are_errors(steps: int, denoise: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        karras_sigmas(steps, denoise)


@pytest.mark.parametrize("steps", [1, 2, 25])
def test_euler_is_exact_where_the_path_is_straight(steps: int) -> None:
    x, last = noise(3, 4, 2, 2) * 700, 3.0
    sigmas = torch.linspace(700, last, steps + 1)

    torch.testing.assert_close(
        euler(knows_the_answer, x, sigmas), CLEAN + (x - CLEAN) * (last / 700), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("steps", [1, 2, 25])
def test_euler_ends_at_the_denoised_latents(steps: int) -> None:
    x = noise(3, 4, 2, 2) * 700

    torch.testing.assert_close(euler(knows_the_answer, x, karras_sigmas(steps)), CLEAN, atol=2e-3, rtol=0)


def test_euler_converges_to_the_curved_path_of_a_gaussian() -> None:
    def of_unit_variance(x: Tensor, sigma: Tensor) -> Tensor:
        return x / (1 + sigma**2)  # the best guess for clean ~ N(0, 1)

    x = noise(3, 4, 2, 2) * (1 + 10.0**2) ** 0.5
    exact = x / (1 + 10.0**2) ** 0.5
    errors = [(euler(of_unit_variance, x, torch.linspace(10, 0, n + 1)) - exact).abs().max() for n in (50, 100, 200)]

    assert errors[0] > 1.7 * errors[1] > 1.7 * 1.7 * errors[2]  # first order


def test_dpmpp_converges_by_second_order_to_the_curved_path_of_a_gaussian() -> None:
    def of_unit_variance(x: Tensor, sigma: Tensor) -> Tensor:
        return x / (1 + sigma**2)

    x, last = noise(3, 4, 2, 2).double() * (1 + 10.0**2) ** 0.5, 0.1
    exact = x * ((1 + last**2) / (1 + 10.0**2)) ** 0.5
    grids = [torch.logspace(1, -1, n + 1, dtype=torch.float64) for n in (20, 40, 80)]
    errors = [(dpmpp_2m_sigmas(of_unit_variance, x, grid) - exact).abs().max() for grid in grids]

    assert errors[0] > 3.5 * errors[1] > 3.5 * 3.5 * errors[2]
    assert errors[2] < 0.05 * (euler(of_unit_variance, x, grids[2]) - exact).abs().max()


def test_dpmpp_is_the_same_in_sigmas_and_alphas() -> None:
    def in_sigmas(x: Tensor, sigma: Tensor) -> Tensor:
        return (x / (1 + sigma**2)).sin()

    sigmas = karras_sigmas(9, sigma_max=20.0).double()
    alphas = 1 / (1 + sigmas**2)
    x = noise(3, 4, 2, 2).double() * 20
    other = dpmpp_2m(lambda x, a: in_sigmas(x / a.sqrt(), ((1 - a) / a).sqrt()), x * alphas[0].sqrt(), alphas)

    torch.testing.assert_close(dpmpp_2m_sigmas(in_sigmas, x, sigmas), other)


@pytest.mark.parametrize("steps", [1, 2, 25])
def test_dpmpp_ends_at_the_denoised_latents(steps: int) -> None:
    x = noise(3, 4, 2, 2) * 700
    reports: list[tuple[int, int]] = []
    result = dpmpp_2m_sigmas(knows_the_answer, x, karras_sigmas(steps), lambda *report: reports.append(report[:2]))

    torch.testing.assert_close(result, CLEAN, atol=2e-3, rtol=0)
    assert reports == [(step + 1, steps) for step in range(steps)]


def test_euler_reports_each_step_with_what_it_denoised() -> None:
    reports: list[tuple[int, int, Tensor]] = []

    euler(knows_the_answer, noise(3, 4, 2, 2), karras_sigmas(3), lambda *report: reports.append(report))

    assert [report[:2] for report in reports] == [(1, 3), (2, 3), (3, 3)]
    assert all(torch.equal(report[2], CLEAN) for report in reports)


def test_an_exception_from_the_callback_stops_the_run() -> None:
    calls: list[float] = []

    def counting(x: Tensor, sigma: Tensor) -> Tensor:
        calls.append(float(sigma))
        return x

    def cancel(step: int, steps: int, denoised: Tensor) -> None:
        if step == 2:
            raise CancelError

    with pytest.raises(CancelError):
        euler(counting, noise(1, 4, 2, 2), karras_sigmas(9), cancel)
    assert len(calls) == 2


@pytest.mark.parametrize("sigma", [0.002, 1.0, 700.0])
def test_the_true_velocity_gives_the_clean_latents(sigma: float) -> None:
    level, unit = torch.tensor(sigma), noise(3, 4, 2, 2)

    def true_velocity(scaled: Tensor, timestep: Tensor) -> Tensor:
        torch.testing.assert_close(timestep, level.log() / 4)
        torch.testing.assert_close(scaled, (CLEAN + level * unit) / (1 + level**2).sqrt())
        return (unit - level * CLEAN) / (1 + level**2).sqrt()

    denoised = v_prediction(true_velocity)(CLEAN + level * unit, level)

    torch.testing.assert_close(denoised, CLEAN, atol=1e-3, rtol=0)


def test_the_velocity_may_be_in_half_precision() -> None:
    denoised = v_prediction(lambda x, _: x.half())(noise(1, 4, 2, 2), torch.tensor(2.0))

    assert denoised.dtype == torch.float32


def test_pinned_frames_are_shown_with_the_run_s_own_noise() -> None:
    x, unit, sigma = noise(3, 4, 2, 2, seed=2), noise(3, 4, 2, 2, seed=3), torch.tensor(5.0)
    before = x.clone()

    seen = pin_frames(lambda x, _: x, {0: CLEAN[0], 2: CLEAN[1]}, unit)(x, sigma)

    torch.testing.assert_close(seen[0], CLEAN[0] + 5 * unit[0])
    torch.testing.assert_close(seen[1], x[1])
    torch.testing.assert_close(seen[2], CLEAN[1] + 5 * unit[2])
    assert torch.equal(x, before)


def test_without_keyframes_nothing_is_wrapped() -> None:
    assert pin_frames(knows_the_answer, {}, CLEAN) is knows_the_answer


def test_sampling_starts_at_the_spread_of_noise_and_unit_data() -> None:
    torch.testing.assert_close(Levels.from_sigmas(torch.tensor([3.0, 0.0])).start(noise(9)), noise(9) * 10**0.5)


def test_a_given_clip_starts_with_noise_on_it() -> None:
    torch.testing.assert_close(
        Levels.from_sigmas(torch.tensor([3.0, 0.0])).start(noise(3, 4, 2, 2), CLEAN), CLEAN + 3 * noise(3, 4, 2, 2)
    )


def test_guidance_rises_linearly_over_the_frames() -> None:
    scale_T111 = frame_guidance(5, 1.0, 3.0)

    assert scale_T111.shape == (5, 1, 1, 1)
    assert scale_T111.flatten().tolist() == [1.0, 1.5, 2.0, 2.5, 3.0]


def test_guidance_goes_from_the_negative_past_the_positive() -> None:
    positive, negative = torch.tensor(3.0), torch.tensor(1.0)
    guided = [float(guide(positive, negative, torch.tensor(scale))) for scale in (0.0, 1.0, 2.0)]

    assert guided == [1.0, 3.0, 5.0]


def test_normalised_frames_have_the_clip_s_mean_and_spread() -> None:
    fading = noise(5, 4, 6, 7) * torch.linspace(1, 0.2, 5).view(5, 1, 1, 1) + torch.linspace(0, 2, 5).view(5, 1, 1, 1)
    normalised = normalize_frames(fading)

    torch.testing.assert_close(normalised.mean((1, 2, 3)), fading.mean().expand(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(normalised.std((1, 2, 3)), fading.std().expand(5))


def test_frames_of_the_same_spread_are_left_alone() -> None:
    frame = noise(1, 4, 16, 16)
    alike = torch.cat([frame, frame.flip(3), frame.flip(2)])

    torch.testing.assert_close(normalize_frames(alike), alike, atol=1e-2, rtol=0)
