"""The published training script's loss, in its own arithmetic and in ours."""

import importlib.machinery
import importlib.util
from pathlib import Path

import pytest
import torch

from exvideo_core.families.svd.objective import lognormal_sigmas, noised, script_sigmas, svd_loss
from exvideo_core.training.randomness import generator_of
from tools.demo_models.svd.unet import velocity_target

SIGMAS = [0.002, 0.05, 0.7, 15.5, 700.0]


class Constant:
    """A network whose answer is known."""

    def __init__(self, v_TCHW):
        self.v_TCHW = v_TCHW

    def __call__(self, x_TCHW, timestep, context, add_time_ids):
        self.seen = x_TCHW, timestep
        return self.v_TCHW


def clip():
    generator = generator_of(0, 0)
    return (torch.randn(3, 4, 2, 2, generator=generator, dtype=torch.float64) for _ in range(3))


def loss_of(v, latents, noise, sigma, scale):
    unet = Constant(v)
    return unet, svd_loss(unet, latents, latents[0], torch.zeros(1, 2), torch.zeros(1, 3), sigma, noise, scale)


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("scale", [1.0, 1.01])
def test_weighted_loss_is_the_velocity_form(sigma, scale):
    latents, noise, v = clip()
    sigma = torch.tensor(sigma, dtype=torch.float64)

    # x0 is taken in float32, where the difference at sigma 0.002 is in the fifth decimal
    _, (_, weighted) = loss_of(v, latents, noise, sigma, scale)

    total = torch.sqrt(1 + sigma**2)
    target = velocity_target(latents, noise, sigma, scale)
    expected = sigma / total * (v - target).square().mean()
    torch.testing.assert_close(weighted.double(), expected, rtol=2e-4, atol=0)


@pytest.mark.parametrize("sigma", SIGMAS[1:])
def test_loss_is_the_published_scripts(sigma):
    latents, noise, v = (x.float() for x in clip())
    sigma = torch.tensor(sigma)

    unet, (loss, weighted) = loss_of(v, latents, noise, sigma, 1.01)

    # as ContinuousODEScheduler.add_noise, .step(to_final=True) and .training_weight compute it
    sample = (latents + noise * sigma) / (sigma * sigma + 1).sqrt()
    torch.testing.assert_close(unet.seen[0][:, :4], sample)
    torch.testing.assert_close(unet.seen[1], sigma.log() * 0.25)
    x = sample * (sigma * sigma + 1).sqrt()
    final = v * (-sigma / (sigma * sigma + 1).sqrt()) + x / (sigma * sigma + 1)
    torch.testing.assert_close(loss, (final - 1.01 * latents).square().mean(), rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(weighted, loss * (1 + sigma**2).sqrt() / sigma)


def test_loss_is_zero_at_its_target():
    latents, noise, _ = clip()
    sigma = torch.tensor(3.0, dtype=torch.float64)

    _, (loss, _) = loss_of(velocity_target(latents, noise, sigma, 1.01), latents, noise, sigma, 1.01)

    assert loss < 1e-12


def test_noised_latents_have_unit_variance_at_every_level():
    latents, noise, _ = clip()
    for sigma in torch.tensor(SIGMAS, dtype=torch.float64):
        scaled, total = noised(latents, noise, sigma)
        torch.testing.assert_close(scaled * total, latents + sigma * noise)


def test_script_sigmas_are_top_heavy():
    sigmas = script_sigmas()
    assert sigmas.min() == pytest.approx(0.002, rel=1e-3)
    assert sigmas.max() == pytest.approx(700, rel=1e-3)
    assert 15 < sigmas.median() < 16


def test_lognormal_sigmas_stay_in_the_samplers_range():
    sigmas = lognormal_sigmas(1000, mean=0.0, std=6.0, generator=generator_of(0, 1))
    assert sigmas.min() >= 0.002
    assert sigmas.max() <= 700
    assert 0.5 < lognormal_sigmas(1000, 0.0, 1.4, generator_of(0, 2)).median() < 2


@pytest.fixture(scope="module")
def published_scheduler():
    """DiffSynth-Studio's, from its one file: the package as a whole imports half of the world."""
    # not by find_spec: the parity tests may have put a package of this name in its place
    package = importlib.machinery.PathFinder.find_spec("diffsynth")
    if package is None or package.origin is None:
        pytest.skip("diffsynth is not installed: `python run.py test` installs it")
    spec = importlib.util.spec_from_file_location(
        "continuous_ode", Path(package.origin).parent / "schedulers" / "continuous_ode.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ContinuousODEScheduler(num_inference_steps=1000)


@pytest.mark.parity
@pytest.mark.parametrize("index", [0, 300, 500, 800, 980])
def test_loss_is_what_diffsynths_scheduler_computes(published_scheduler, index):
    latents, noise, v = (x.float() for x in clip())
    sigma, timestep = published_scheduler.sigmas[index], published_scheduler.timesteps[index]

    unet, (loss, weighted) = loss_of(v, latents, noise, sigma, 1.01)

    sample = published_scheduler.add_noise(latents, noise, timestep)
    torch.testing.assert_close(unet.seen[0][:, :4], sample)
    final = published_scheduler.step(v, timestep, sample.clone(), to_final=True)  # it writes into its sample
    expected = (final - 1.01 * latents).square().mean()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(weighted, expected * published_scheduler.training_weight(timestep), rtol=1e-4, atol=1e-7)


@pytest.mark.parity
def test_script_sigmas_are_diffsynths(published_scheduler):
    torch.testing.assert_close(script_sigmas(), published_scheduler.sigmas, rtol=2e-5, atol=0)
