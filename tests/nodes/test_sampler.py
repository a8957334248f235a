"""ExVideoSampler is a short way to write a stock graph."""

import pytest
import torch
from in_comfyui import finished, relative


def test_equals_the_ksampler_graph(run):
    assert relative(run.sample(), run.ksampler()) <= 1e-5


def test_dpm_solver_equals_the_ksampler_graph(run):
    found = run.sample(method="dpm++ 2m")

    assert relative(found, run.ksampler(sampler="dpmpp_2m")) <= 1e-5
    assert relative(found, run.sample()) > 1e-3


def test_same_seed_gives_the_same_bits(run):
    assert torch.equal(run.sample(), run.sample())


def test_other_seed_gives_another_clip(run):
    assert relative(run.sample(seed=4), run.sample()) > 0.1


def test_rising_guidance_equals_the_stock_node_for_it(run):
    from comfy_extras.nodes_video_model import VideoLinearCFGGuidance

    ramped = VideoLinearCFGGuidance().patch(run.model, 1.0)[0]

    assert (
        relative(run.sample(guidance=(1.0, 3.0)), run.ksampler(ramped, cfg=3.0)) <= 1e-4
    )  # theirs cancels at sigma 700
    assert relative(run.sample(guidance=(1.0, 3.0)), run.sample()) > 1e-3


def test_guidance_that_falls_to_one_still_guides_the_first_frames(run):
    falling, off = run.sample(guidance=(3.0, 1.0)), run.sample(guidance=(1.0, 1.0))

    assert relative(falling[:1], off[:1]) > 1e-3


def test_given_model_keeps_its_own_guidance(run):
    run.sample(guidance=(1.0, 3.0))

    assert "sampler_cfg_function" not in run.model.model_options


def test_denoise_starts_from_the_given_clip(run):
    clip = torch.rand(6, 128, 128, 3, generator=torch.Generator().manual_seed(5))
    given = run.pack.svd.conditioning.start_latents(run.vae, run.size, init_video=clip)

    near = run.sample(denoise=0.05, latent=given)

    assert relative(near, given["samples"]) < 0.2
    assert relative(run.sample(denoise=1.0, latent=given), given["samples"]) > 0.5


def test_keyframes_stay(run):
    make = run.pack.svd.conditioning.start_latents
    picture = torch.rand(128, 128, 3, generator=torch.Generator().manual_seed(6))
    given = make(run.vae, run.size, keyframes={2: picture})

    result = run.sample(latent=given)

    torch.testing.assert_close(result[2], given["samples"][2], rtol=1e-4, atol=1e-4)
    assert relative(result[3], run.sample()[3]) > 1e-3  # the other frames see it


def test_finish_is_for_extended_models(run, pack, files):
    latents = torch.randn(6, 4, 16, 16) * torch.arange(1, 7).view(-1, 1, 1, 1)
    plain, *_ = pack.svd.loading.load_svd(files[0], None, torch.float32)

    evened = finished(pack, run.model, latents)
    assert torch.allclose(evened.std((1, 2, 3)), evened.std() / 1, rtol=1e-2)
    assert torch.allclose(finished(pack, run.model, latents, None, 0.6) * 2, evened)
    assert torch.equal(finished(pack, plain, latents), latents)
    assert torch.allclose(finished(pack, plain, latents, True, 1.2), evened)


def test_values_that_are_not_numbers_are_reported(run, pack):
    with pytest.raises(pack.errors.ExVideoError, match="bf16"):
        finished(pack, run.model, torch.full((6, 4, 16, 16), float("nan")))


def test_more_frames_than_the_table_are_refused_before_the_run(run, pack):
    latent = {"samples": torch.zeros(13, 4, 16, 16)}

    with pytest.raises(pack.errors.ClipError, match=r"13 frames .* trained for 12.*Context Windows"):
        run.sample(latent=latent)


def test_noise_is_that_of_a_torch_generator(run):
    """So that the Python interface and the graph make the same clip of a seed."""
    import comfy.sample

    drawn = torch.randn((6, 4, 16, 16), generator=torch.Generator().manual_seed(3))

    assert torch.equal(comfy.sample.prepare_noise(run.latent["samples"], 3), drawn)
