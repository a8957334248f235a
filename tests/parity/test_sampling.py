"""Our noise levels and solver against DiffSynth-Studio's and diffusers' schedulers."""

from __future__ import annotations

import pytest
import torch
from narrow_svd import noise
from solvers import euler

from exvideo_core.sampling.denoisers import v_prediction
from exvideo_core.sampling.levels import Levels
from exvideo_core.sampling.schedules import karras_sigmas
from parity import references

pytestmark = [pytest.mark.parity, references.EXPECTED_WARNINGS]

TOLERANCE = 1e-5


def diffusers_scheduler(steps):
    from diffusers import EulerDiscreteScheduler

    scheduler = EulerDiscreteScheduler(**references.PUBLISHED_SCHEDULER)
    scheduler.set_timesteps(steps)
    return scheduler


def diffsynth_scheduler(steps, denoise=1.0):
    scheduler = references.diffsynth("schedulers.continuous_ode").ContinuousODEScheduler()
    scheduler.set_timesteps(steps, denoising_strength=denoise)
    return scheduler


@pytest.mark.parametrize("denoise", [1.0, 0.7, 0.5, 0.1])
@pytest.mark.parametrize("steps", [1, 2, 20, 50])
def test_noise_levels_equal_diffsynth(steps, denoise, relative_error):
    ours, reference = karras_sigmas(steps, denoise), diffsynth_scheduler(steps, denoise).sigmas

    assert ours[-1] == 0
    assert relative_error(ours[:-1] / reference, torch.ones(steps)) <= TOLERANCE  # of each level by itself


@pytest.mark.parametrize("steps", [2, 20, 25, 50])
def test_noise_levels_equal_diffusers(steps, relative_error):
    ours, reference = karras_sigmas(steps), diffusers_scheduler(steps).sigmas

    assert ours[-1] == reference[-1] == 0
    assert relative_error(ours[:-1] / reference[:-1], torch.ones(steps)) <= TOLERANCE


def velocity(x, timestep):
    """A stand-in for a network: smooth, and different at every level."""
    return torch.tanh(x + timestep)


@pytest.mark.parametrize("denoise", [1.0, 0.5])
def test_a_run_equals_diffsynth(denoise, relative_error):
    scheduler = diffsynth_scheduler(25, denoise)
    unit, clean = noise(4, 4, 8, 8), noise(4, 4, 8, 8, seed=1) if denoise < 1 else None
    state = unit.clone() if clean is None else scheduler.add_noise(clean, unit, scheduler.timesteps[0])
    for timestep in scheduler.timesteps:
        state = scheduler.step(velocity(state, timestep), timestep, state)

    sigmas = karras_sigmas(25, denoise)
    ours = euler(v_prediction(velocity), Levels.from_sigmas(sigmas).start(unit, clean), sigmas)

    assert relative_error(ours, state) <= TOLERANCE


def test_a_run_equals_diffusers(relative_error):
    scheduler = diffusers_scheduler(25)
    unit = noise(4, 4, 8, 8)
    state = unit * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        scaled = scheduler.scale_model_input(state, timestep)
        state = scheduler.step(velocity(scaled, timestep), timestep, state).prev_sample

    sigmas = karras_sigmas(25)
    ours = euler(v_prediction(velocity), Levels.from_sigmas(sigmas).start(unit), sigmas)

    assert relative_error(ours, state) <= TOLERANCE
