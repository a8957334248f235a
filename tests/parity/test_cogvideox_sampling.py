"""Our levels and solvers for CogVideoX against DiffSynth-Studio's and diffusers' schedulers."""

from __future__ import annotations

import pytest
import torch
from narrow_svd import noise
from solvers import ddim, dpmpp_2m, dpmpp_2m_sde

from exvideo_core.sampling.denoisers import add_noise, zero_snr_v_prediction
from exvideo_core.sampling.schedules import alpha_levels, linspace_timesteps, trailing_timesteps, zero_snr_alphas
from parity import references_cogvideox as references
from parity.references import EXPECTED_WARNINGS

pytestmark = [pytest.mark.parity, EXPECTED_WARNINGS]

TOLERANCE = 1e-5
UNIT, CLEAN = noise(1, 16, 3, 4, 6), noise(1, 16, 3, 4, 6, seed=1)


def velocity(x, timestep):
    """A stand-in for a network: smooth, and different at every level."""
    return torch.tanh(x + timestep / 500 - 1)


@pytest.fixture
def denoiser():
    return zero_snr_v_prediction(velocity)


def test_alphas_equal_both(relative_error):
    ours = zero_snr_alphas()
    synth = torch.tensor(references.diffsynth_scheduler(10).alphas_cumprod)
    diffusers = references.diffusers_scheduler("CogVideoXDDIMScheduler", 10).alphas_cumprod

    assert ours[999] == synth[999] == diffusers[999] == 0
    assert relative_error(ours, synth) <= TOLERANCE
    assert relative_error(ours, diffusers.float()) <= TOLERANCE


@pytest.mark.parametrize("denoise", [1.0, 0.7, 0.5, 0.1, 0.01, 0.001])
@pytest.mark.parametrize("steps", [1, 2, 7, 20, 50, 100])
def test_reference_grid_equals_diffsynth(steps, denoise):
    reference = references.diffsynth_scheduler(steps, denoise).timesteps.long()
    steps = len(reference)  # it takes fewer than asked for where there are not as many timesteps

    assert torch.equal(linspace_timesteps(steps, denoise), reference)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 20, 30, 50, 100, 1000])
def test_trailing_grid_equals_diffusers(steps):
    assert torch.equal(
        trailing_timesteps(steps), references.diffusers_scheduler("CogVideoXDDIMScheduler", steps).timesteps
    )


@pytest.mark.parametrize("denoise", [1.0, 0.6, 0.2])
@pytest.mark.parametrize("steps", [1, 7, 50])
def test_a_ddim_run_on_the_reference_grid_equals_diffsynth(steps, denoise, denoiser, relative_error):
    scheduler = references.diffsynth_scheduler(steps, denoise)
    state = UNIT if denoise == 1 else scheduler.add_noise(CLEAN, UNIT, scheduler.timesteps[0])
    for timestep in scheduler.timesteps:
        state = scheduler.step(velocity(state, timestep), timestep, state)

    alphas = alpha_levels(linspace_timesteps(steps, denoise))
    ours = ddim(denoiser, UNIT if denoise == 1 else add_noise(CLEAN, UNIT, alphas[0]), alphas)

    assert relative_error(ours, state) <= TOLERANCE


@pytest.mark.parametrize("steps", [1, 5, 20, 50])  # where a step is a whole number of timesteps
def test_a_ddim_run_on_the_trailing_grid_equals_diffusers(steps, denoiser, relative_error):
    scheduler = references.diffusers_scheduler("CogVideoXDDIMScheduler", steps)
    state = UNIT
    for timestep in scheduler.timesteps:
        state = scheduler.step(velocity(state, timestep), timestep, state).prev_sample

    assert relative_error(ddim(denoiser, UNIT, alpha_levels(trailing_timesteps(steps))), state) <= TOLERANCE


@pytest.mark.parametrize("steps", [1, 5, 20, 50])
def test_a_dpm_run_with_fresh_noise_equals_cogvideox_s_own(steps, denoiser, relative_error, monkeypatch):
    scheduler = references.diffusers_scheduler("CogVideoXDPMScheduler", steps)
    fresh = [noise(*UNIT.shape, seed=step + 2) for step in range(steps)]
    state, earlier = UNIT, None
    for step, timestep in enumerate(scheduler.timesteps):
        # it draws twice a step and uses the last
        monkeypatch.setattr(f"{type(scheduler).__module__}.randn_tensor", lambda *_, step=step, **__: fresh[step])
        before = scheduler.timesteps[step - 1] if step else None
        call = velocity(state, timestep), earlier, timestep, before, state
        state, earlier = scheduler.step(*call, return_dict=False)

    drawn = iter(fresh)
    alphas = alpha_levels(trailing_timesteps(steps))
    ours = dpmpp_2m_sde(denoiser, UNIT, alphas, draw=lambda: next(drawn))

    assert relative_error(ours, state.float()) <= TOLERANCE


@pytest.mark.parametrize("steps", [2, 7, 20, 50])
def test_a_dpm_run_equals_diffusers(steps, denoiser, relative_error):
    scheduler = references.diffusers_scheduler("DPMSolverMultistepScheduler", steps)
    state = UNIT
    for timestep in scheduler.timesteps:
        state = scheduler.step(velocity(state, timestep), timestep, state).prev_sample

    alphas = alpha_levels(trailing_timesteps(steps))
    alphas[0] = 2**-24  # what diffusers has there, as its logarithm must be finite
    assert relative_error(dpmpp_2m(denoiser, UNIT, alphas), state) <= TOLERANCE
