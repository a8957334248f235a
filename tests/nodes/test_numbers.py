"""In ComfyUI too, what is no number ends the run: with step and layer, whichever sampler runs, and once only."""

from contextlib import contextmanager

import pytest
import torch
from in_comfyui import PROMPTS, finished, sampled
from narrow_svd import noise


@contextmanager
def broken(network, name, value=torch.nan):
    """A weight that is no number, for a while."""
    with torch.inference_mode():
        weight = network.get_parameter(name)
        kept = weight.clone()
        weight.fill_(value)
        yield
        weight.copy_(kept)


def network_of(either):
    return either.model.model.diffusion_model


SVD, COGVIDEOX = "output_blocks.5.1.time_stack.0.norm3.weight", "transformer_blocks.1.ff.net.2.bias"


@pytest.mark.parametrize("sampler", ["sample", "ksampler"])
def test_step_and_layer_are_named_by_any_sampler_and_the_next_run_is_as_before(run, pack, sampler):
    sample = getattr(run, sampler)
    before = sample()
    with broken(network_of(run), SVD), pytest.raises(pack.errors.NumberError, match=r"^step 1 of 3") as told:
        sample()

    assert f"the weight {SVD} holds NaN" in str(told.value)
    assert torch.equal(sample(), before)


def test_cogvideox_names_step_and_layer(cog, pack):
    with broken(network_of(cog), COGVIDEOX), pytest.raises(pack.errors.NumberError, match=r"^step 1 of 4") as told:
        cog.sample()

    assert f"the weight {COGVIDEOX} holds NaN" in str(told.value)


def test_a_later_step_is_counted(run, pack):
    weight = network_of(run).get_parameter(SVD)
    kept = weight.clone()

    def watch(_plan):
        return lambda step, _denoised: weight.data.fill_(torch.nan) if step == 1 else None

    try:
        with pytest.raises(pack.errors.NumberError, match=r"^step 3 of 3"):
            sampled(run, steps=3, guidance=(2.0, 2.0), denoise=1.0, watch=watch)
    finally:
        with torch.inference_mode():
            weight.copy_(kept)


def test_an_overflow_in_half_precision_is_said_to_be_one(pack, files):
    model, *_ = pack.svd.loading.load_svd(*files, torch.float16)
    network = model.model.diffusion_model
    layer = "input_blocks.4.1.time_stack.0.ff.net.2"
    with torch.inference_mode():
        network.get_parameter(f"{layer}.weight").mul_(6e4)
        x, context, ids = (noise(*shape).half() for shape in ((3, 8, 9, 10), (1, 1, 8), (1, 24)))
        with pytest.raises(pack.errors.NumberError, match="float16 overflowed") as told:
            network(x, torch.tensor([0.3]), context, ids, num_video_frames=3)

    assert str(told.value).startswith(f"sampling: {layer} (over time): ")


@pytest.mark.parametrize("what", ["the latent", "the negative conditioning", "concat_latent_image of the positive"])
def test_inputs_that_are_no_numbers_are_named_before_the_first_step(run, pack, what):
    latent = {"samples": run.latent["samples"].clone()}
    (positive, told), (negative, _) = run.positive[0], run.negative[0]
    picture, negative = told["concat_latent_image"].clone(), negative.clone()
    {"the latent": latent["samples"], "the negative conditioning": negative}.get(what, picture)[0] = torch.nan

    positive = [[positive, {**told, "concat_latent_image": picture}]]
    changed = {"positive": positive, "negative": [[negative, {}]], "latent": latent}
    with pytest.raises(pack.errors.NumberError, match=f"^{what}.* holds NaN"):
        sampled(run, changed=changed, steps=1, guidance=(1.0, 1.0), denoise=1.0)


@contextmanager
def complaint(pack, network, name, expected):
    with broken(network, name), pytest.raises(pack.errors.NumberError) as told:
        yield
    assert str(told.value).startswith(f"{expected}the weight {name} holds NaN (")


def test_vaes_name_frames_and_layer(run, cog, pack):
    svd, cogvideox = run.vae.first_stage_model, cog.vae.first_stage_model
    with complaint(pack, svd, "decoder.mid.attn_1.q.weight", "decoding frames 0 to 5: "):
        run.vae.decode(torch.randn(6, 4, 8, 8))
    with complaint(pack, svd, "encoder.conv_in.bias", "encoding frame 0: "):
        run.vae.encode(torch.rand(1, 64, 64, 3))
    with complaint(pack, cogvideox, "decoder.conv_out.conv.bias", "decoding frames 0 to 8: "):
        cog.vae.decode(torch.randn(1, 16, 3, 4, 4))


def test_the_prompt_names_the_layer_of_the_text_encoder(cog, pack):
    network = cog.clip.cond_stage_model.t5xxl.transformer
    with complaint(pack, network, "encoder.block.0.layer.1.DenseReluDense.wo.weight", ""):
        cog.clip.encode_from_tokens_scheduled(cog.clip.tokenize(PROMPTS[0]))


def test_the_picture_names_the_layer_of_its_encoder(run, pack):
    with complaint(pack, run.clip_vision.model, "visual_projection.weight", ""):
        pack.svd.clip_vision.embed_picture(run.clip_vision, torch.rand(1, 3, 64, 64))


def test_a_clip_that_cannot_be_normalised_says_so(run, pack):
    with pytest.raises(pack.errors.NumberError, match="cannot be normalised"):
        finished(pack, run.model, torch.zeros(3, 4, 8, 8), True, 1.0)
