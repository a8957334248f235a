"""ExVideoSampler with CogVideoX is a short way to write a stock graph, and makes the Python interface's clip."""

import pytest
import torch
from in_comfyui import PROMPTS, finished, relative

from exvideo_core.families.cogvideox.pipeline import load_cogvideox
from exvideo_core.sampling.schedules import linspace_timesteps, trailing_timesteps


@pytest.fixture(scope="module")
def core(cog_files):
    transformer, text_encoder, vae = cog_files
    return load_cogvideox(transformer, text_encoder=text_encoder, vae=vae, dtype=torch.float32, device="cpu")


def clip_of(run):
    return torch.rand(run.frames, run.height, run.width, 3, generator=torch.Generator().manual_seed(5))


def latents_of(run, clip):
    start = run.pack.cogvideox.latent.start_latents
    return start(run.width, run.height, run.frames, vae=run.vae, init_video=clip)


@pytest.mark.parametrize("steps", [1, 4, 7])
def test_equals_the_ksampler_graph(cog, steps, monkeypatch):
    """Noise levels are looked up here and interpolated there. From the same levels come the same bits."""
    import comfy.samplers

    model_sampling = cog.model.get_model_object("model_sampling")
    levels = torch.cat([model_sampling.sigmas[linspace_timesteps(steps)], torch.zeros(1)])
    theirs = comfy.samplers.calculate_sigmas(model_sampling, "normal", steps)
    monkeypatch.setattr(comfy.samplers, "calculate_sigmas", lambda *_: levels)

    # KSampler interpolates logarithms; that of the first level is 8.4, where float32 has steps of 1e-6
    torch.testing.assert_close(levels, theirs, rtol=2e-6, atol=0)
    assert torch.equal(cog.sample(steps=steps), cog.ksampler(steps=steps))


@pytest.mark.parametrize(("method", "sampler"), [("ddim trailing", "euler"), ("dpm++ 2m", "dpmpp_2m")])
def test_other_methods_equal_ksampler_graphs(cog, method, sampler):
    found = cog.sample(method=method)

    assert relative(found, cog.ksampler(sampler=sampler, scheduler="simple")) <= 1e-6
    assert relative(found, cog.sample()) > 1e-3


def test_schedulers_give_the_references_timesteps(cog):
    """Of odd numbers of steps some differ by one in the middle, which is half a timestep in exact arithmetic."""
    import comfy.samplers

    levels = cog.model.get_model_object("model_sampling")
    for steps in (4, 8, 10, 12, 16, 20, 25, 30, 40, 50, 60, 75, 80, 100, 200, 1000):
        normal = comfy.samplers.calculate_sigmas(levels, "normal", steps)
        assert levels.timestep(normal[:-1]).tolist() == linspace_timesteps(steps).tolist()
    for steps in (10, 20, 25, 40, 50, 100):
        simple = comfy.samplers.calculate_sigmas(levels, "simple", steps)
        assert levels.timestep(simple[:-1]).tolist() == trailing_timesteps(steps).tolist()


# DPM-Solver's second step also depends on how near the first level is to pure noise
@pytest.mark.parametrize(
    ("method", "name", "near"),
    [("ddim", "ddim", 2e-4), ("ddim trailing", "ddim_trailing", 2e-4), ("dpm++ 2m", "dpmpp_2m", 1e-2)],
)
def test_graph_equals_the_python_interface(cog, core, method, name, near):
    size = {"num_frames": cog.frames, "height": cog.height, "width": cog.width}
    wanted = core(PROMPTS[0], **size, num_inference_steps=20, seed=3, method=name)

    result = cog.sample(steps=20, method=method)

    assert relative(cog.model.model.process_latent_in(result), wanted.latents) <= near


def test_second_pass_equals_the_python_interface(cog, core):
    clip = clip_of(cog)
    size = {"num_frames": cog.frames, "height": cog.height, "width": cog.width}
    wanted = core(PROMPTS[0], **size, num_inference_steps=5, seed=3, denoise=0.4, init_video=list(clip))

    result = cog.sample(latent=latents_of(cog, clip), steps=5, denoise=0.4)

    assert relative(cog.model.model.process_latent_in(result), wanted.latents) <= 1e-4


def test_same_seed_gives_the_same_bits_and_another_another_clip(cog):
    assert torch.equal(cog.sample(), cog.sample())
    assert relative(cog.sample(seed=4), cog.sample()) > 0.1


def test_guidance_of_0_is_the_models_own(cog):
    assert torch.equal(cog.sample(guidance=(0.0, 0.0)), cog.sample(guidance=(7.0, 7.0)))
    assert torch.equal(cog.sample(guidance=(0.0, 3.0)), cog.sample(guidance=(3.0, 0.0)))
    assert relative(cog.sample(guidance=(3.0, 3.0)), cog.sample()) > 1e-3


def test_guidance_of_0_is_svds_own(run):
    assert torch.equal(run.sample(guidance=(0.0, 0.0)), run.sample(guidance=(2.0, 2.0)))


def test_finish_changes_nothing_unless_asked(cog, pack):
    latents = torch.randn(1, 16, 5, 4, 6) * torch.arange(1, 6).view(1, 1, -1, 1, 1)

    assert torch.equal(finished(pack, cog.model, latents), latents)
    evened = finished(pack, cog.model, latents, True)
    assert torch.allclose(evened.std((0, 1, 3, 4)), evened.std(), rtol=1e-2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"latent": {"samples": torch.zeros(6, 4, 16, 16)}}, "this latent is not CogVideoX's"),
        ({"latent": {"samples": torch.zeros(1, 16, 32, 4, 6)}}, "128 frames .* nearest are 121 and 129"),
        ({"latent": {"samples": torch.zeros(1, 16, 5, 5, 6)}}, "nearest size is 48x48"),
        ({"guidance": (2.0, 7.0)}, "one guidance for all frames"),
        ({"denoise": 0.5}, "the latent is empty"),
    ],
)
def test_what_cannot_work_is_refused_in_words(cog, pack, options, words):
    with pytest.raises(pack.errors.ExVideoError, match=words):
        cog.sample(**options)


def test_more_steps_than_timesteps_are_refused_in_words(cog, pack):
    with pytest.raises(pack.errors.ClipError, match=r"1 to 10 at denoise 0\.01"):
        cog.sample(latent=latents_of(cog, clip_of(cog)), denoise=0.01, steps=50)


def test_svd_refuses_cogvideoxs_latent_and_methods(run, cog, pack):
    with pytest.raises(pack.errors.ExVideoError, match="this latent is not SVD's"):
        run.sample(latent=cog.latent)
    with pytest.raises(pack.errors.ExVideoError, match=r"SVD has no method 'ddim'. Set method to auto or dpm\+\+ 2m,"):
        run.sample(method="ddim")


def test_other_models_are_refused_in_words(cog, pack):
    from types import SimpleNamespace

    with pytest.raises(pack.errors.ExVideoError, match="Load ExVideo CogVideoX or Load ExVideo SVD"):
        cog.sample(SimpleNamespace(model=object()))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": 720, "height": 480, "frames": 128}, "nearest are 121 and 129"),
        ({"width": 724, "height": 480, "frames": 129}, "nearest size is 720x480"),
        ({"width": 720, "height": 480, "frames": 1}, "at least 9"),
    ],
)
def test_sizes_that_are_not_possible_are_refused_before_the_run(pack, options, words):
    assert words in pack.cogvideox.nodes.ExVideoCogVideoXLatent.validate_inputs(**options)


def test_possible_and_linked_sizes_pass(pack):
    validate = pack.cogvideox.nodes.ExVideoCogVideoXLatent.validate_inputs

    assert validate(width=720, height=480, frames=129) is True
    assert validate(width=None, height=480, frames=None) is True


def test_full_size_latent_has_33_frames(pack):
    latent = pack.cogvideox.latent.start_latents(720, 480, 129)

    assert latent["samples"].shape == (1, 16, 33, 60, 90)


@pytest.mark.parametrize(("count", "words"), [(12, "Set frames to 9 or fewer"), (30, None)])
def test_videos_to_start_from_need_a_vae_and_enough_frames(cog, pack, count, words):
    start, clip = pack.cogvideox.latent.start_latents, torch.zeros(count, 64, 64, 3)

    if words is None:
        with pytest.raises(pack.errors.ClipError, match="Connect the VAE"):
            start(48, 32, 17, init_video=clip)
        assert start(48, 32, 17, vae=cog.vae, init_video=clip)["samples"].shape == (1, 16, 5, 4, 6)
    else:
        with pytest.raises(pack.errors.ClipError, match=words):
            start(48, 32, 17, vae=cog.vae, init_video=clip)
