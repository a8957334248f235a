"""The conditioning is the reference's, and the graph's clip is the Python interface's."""

import pytest
import torch
from in_comfyui import finished, relative, sampled

from exvideo_core import load_svd


def test_embedding_and_picture_equal_the_cores(run, files):
    from exvideo_core.families.svd.conditioning import condition
    from exvideo_core.sampling.inputs import draw_noise
    from exvideo_core.video.frames import cover_crop, to_pixels

    core = load_svd(*files, dtype=torch.float32, device="cpu")
    picture = to_pixels(cover_crop(run.image[0], 128, 128))
    with torch.no_grad():
        wanted = condition(
            picture,
            core.vae.encode,
            core.image_encoder,
            fps=30,
            motion_bucket_id=127,
            noise_aug_strength=0.02,
            image_noise=draw_noise((1, 3, 128, 128), 3),
        )
    (embedding, told), *_ = run.positive

    assert relative(embedding[:, 0], wanted.embedding) <= 1e-5
    assert relative(told["concat_latent_image"], wanted.image_latents) <= 1e-5
    ids = run.model.model.encode_adm(**told)
    from exvideo_core.nn.layers import sinusoid

    assert torch.allclose(ids, sinusoid(wanted.ids.reshape(-1), run.model.model.sizes.id_dim).reshape(1, -1))


def test_negative_is_nothing(run):
    (embedding, told), *_ = run.negative

    assert not embedding.any()
    assert not told["concat_latent_image"].any()
    assert (told["fps"], told["motion_bucket_id"], told["augmentation_level"]) == (30, 127, 0.02)


def test_graph_equals_the_python_interface(run, files):
    core = load_svd(*files, dtype=torch.float32, device="cpu")
    wanted = core(run.image[0], num_frames=6, height=128, width=128, num_inference_steps=3, seed=3)

    latents = finished(run.pack, run.model, run.sample())

    scaled = run.model.model.process_latent_in(latents)
    assert relative(scaled, wanted.latents) <= 1e-4
    assert (run.vae.decode(latents) - wanted.frames).abs().max() <= 1e-4


def test_second_pass_equals_the_python_interface(run, files):
    core = load_svd(*files, dtype=torch.float32, device="cpu")
    clip = torch.rand(6, 128, 128, 3, generator=torch.Generator().manual_seed(5))
    wanted = core(
        run.image[0],
        num_frames=6,
        height=128,
        width=128,
        num_inference_steps=3,
        seed=3,
        denoise=0.5,
        init_video=list(clip),
        encode_scale=0.13025,
        min_guidance_scale=1.0,
        max_guidance_scale=3.0,
    )

    start = run.pack.svd.conditioning.start_latents(run.vae, run.size, init_video=clip, encode_scale=0.13025)
    latents = finished(run.pack, run.model, run.sample(latent=start, denoise=0.5, guidance=(1.0, 3.0)))

    assert relative(run.model.model.process_latent_in(latents), wanted.latents) <= 1e-4


def test_other_frames_of_keyframed_clips_equal_the_python_interface(run, files):
    """ComfyUI's noise mask also sets the keyframes themselves at the end; the reference does not."""
    core = load_svd(*files, dtype=torch.float32, device="cpu")
    picture = torch.rand(128, 128, 3, generator=torch.Generator().manual_seed(6))
    options = {
        "num_frames": 6,
        "height": 128,
        "width": 128,
        "num_inference_steps": 3,
        "normalize": False,
        "contrast": 1.0,
    }
    wanted = core(run.image[0], keyframes={2: picture}, seed=3, **options)

    start = run.pack.svd.conditioning.start_latents(run.vae, run.size, keyframes={2: picture})
    result = run.model.model.process_latent_in(run.sample(latent=start))

    others = [0, 1, 3, 4, 5]
    assert relative(result[others], wanted.latents[others]) <= 1e-4


def test_wide_pictures_are_cut_and_not_squashed(pack):
    size = pack.svd.conditioning.ClipSize(width=128, height=128, frames=2)
    image = torch.zeros(1, 128, 384, 3)
    image[:, :, 128:256] = 1  # the middle third is white

    assert size.pixels(image).min() > 0.99


def test_transparency_is_left_out(pack):
    size = pack.svd.conditioning.ClipSize(width=128, height=128, frames=2)

    assert size.pixels(torch.ones(1, 128, 128, 4)).shape == (1, 3, 128, 128)


@pytest.mark.parametrize(
    ("text", "indices"), [("", []), ("0", [0]), ("0, 64, 127", [0, 64, 127]), ("1 2,3", [1, 2, 3])]
)
def test_indices_are_read(pack, text, indices):
    assert pack.svd.conditioning.parse_indices(text) == indices


@pytest.mark.parametrize(
    ("count", "indices", "message"),
    [(1, [], "1 keyframes and 0 keyframe indices"), (1, [6], "frames are 0 to 5"), (2, [1, 1], "twice")],
)
def test_keyframes_that_do_not_fit_are_refused(pack, count, indices, message):
    with pytest.raises(pack.errors.ClipError, match=message):
        pack.svd.conditioning.place_keyframes(torch.zeros(count, 8, 8, 3), indices, 6)


def test_videos_too_short_to_start_from_are_refused(run, pack):
    with pytest.raises(pack.errors.ClipError, match="Set frames to 4"):
        pack.svd.conditioning.start_latents(run.vae, run.size, init_video=torch.zeros(4, 128, 128, 3))


def test_clip_goes_on_from_the_latents_of_another(run, pack):
    before = run.sample(steps=2)

    positive, latent = pack.svd.conditioning.continue_clip(run.positive, run.latent, before, 2)
    changed = {"positive": positive, "latent": latent}
    result = sampled(run, seed=4, changed=changed, steps=2, guidance=(2.0, 2.0), denoise=1.0)

    assert torch.equal(positive[0][1]["concat_latent_image"], before[-2:-1])
    assert relative(result[:2], before[-2:]) <= 1e-5
    assert relative(result[2:], run.sample(seed=4, steps=2)[2:]) > 0.01  # the rest knows of them
    assert not run.latent["samples"].any()  # what came in is as it was
    assert not torch.equal(run.positive[0][1]["concat_latent_image"], before[-2:-1])


def test_keyframes_stay_in_a_clip_that_goes_on(run, pack):
    keyframe = {5: torch.rand(128, 128, 3)}
    latent = pack.svd.conditioning.start_latents(run.vae, run.size, keyframes=keyframe)

    _, latent = pack.svd.conditioning.continue_clip(run.positive, latent, torch.ones(6, 4, 16, 16), 1)

    assert latent["noise_mask"][:, 0, 0, 0].tolist() == [0, 1, 1, 1, 1, 0]


@pytest.mark.parametrize(
    ("shape", "shared", "message"),
    [
        ((6, 4, 16, 24), 1, "same width and height"),
        ((1, 16, 3, 16, 16), 1, "latent of SVD"),
        ((6, 4, 16, 16), 6, "shared_frames to 5"),
        ((3, 4, 16, 16), 4, "shared_frames to 3"),
    ],
)
def test_clips_that_cannot_be_continued_are_refused(run, pack, shape, shared, message):
    with pytest.raises(pack.errors.ClipError, match=message):
        pack.svd.conditioning.continue_clip(run.positive, run.latent, torch.zeros(shape), shared)


def test_clips_are_joined_without_the_frames_they_share(pack):
    first, second = torch.arange(5.0).reshape(5, 1, 1, 1), torch.arange(3.0, 9).reshape(6, 1, 1, 1)

    joined = pack.svd.nodes.ExVideoSVDJoin.execute({"samples": first}, {"samples": second}, 2).result[0]

    assert joined["samples"].flatten().tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize(
    ("first", "second", "shared", "message"),
    [
        ((5, 4, 16, 16), (5, 4, 16, 24), 1, "same width and height"),
        ((1, 16, 3, 16, 16), (1, 16, 3, 16, 16), 1, "two clips of SVD"),
        ((5, 4, 16, 16), (5, 4, 16, 16), 5, "5 frames, and 5 are to be left out"),
    ],
)
def test_clips_that_cannot_be_joined_are_refused(pack, first, second, shared, message):
    with pytest.raises(pack.errors.ClipError, match=message):
        pack.svd.conditioning.join(torch.zeros(first), torch.zeros(second), shared)


def test_parts_missing_from_a_saved_model_are_explained(pack):
    with pytest.raises(pack.errors.ExVideoError, match="ModelSave"):
        pack.svd.conditioning.check_parts(None, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 100, "height": 128}, "nearest size is 128x128"),
        ({"width": 516, "height": 512}, "multiples of 8"),
        ({"width": 128, "height": 128, "keyframe_indices": "first"}, "0, 64, 127"),
    ],
)
def test_bad_values_are_refused_before_the_run(pack, options, message):
    assert message in pack.svd.nodes.ExVideoSVDConditioning.validate_inputs(**options)


def test_good_and_linked_values_pass(pack):
    validate = pack.svd.nodes.ExVideoSVDConditioning.validate_inputs

    assert validate(width=512, height=576, keyframe_indices="0, 3") is True
    assert validate(width=None, height=576, keyframe_indices=None) is True
