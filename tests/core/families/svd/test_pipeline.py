"""From a picture to a clip: what a call does with its settings, what it refuses, and how it is loaded."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import record_svd
from narrow_svd import (
    NARROW,
    TINY,
    build_image_encoder,
    build_pipeline,
    build_unet,
    build_vae,
    noise,
    save_files,
)
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from exvideo_core import ClipError, ExVideoError, SVDPipeline, SVDResult, load_svd
from exvideo_core.families.svd.checkpoint import DECODER, ENCODER, UNET
from exvideo_core.families.svd.pipeline import PLAIN, extended_defaults
from exvideo_core.sampling.inputs import draw_noise
from exvideo_core.sampling.schedules import karras_sigmas

FRAMES = 3


class CancelError(Exception):
    """What a host raises from a callback."""


@pytest.fixture(scope="module")
def plain() -> SVDPipeline:
    return build_pipeline()


@pytest.fixture(scope="module")
def extended() -> SVDPipeline:
    return build_pipeline(extension_frames=8)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return save_files(tmp_path_factory.mktemp("tiny"), TINY, extension_frames=8)


def picture(seed: int = 0, height: int = 128, width: int = 128) -> Tensor:
    """[H, W, 3] in [0, 1]."""
    return torch.rand(height, width, 3, generator=torch.Generator().manual_seed(seed))


def run(pipe: SVDPipeline, image: Tensor | Image.Image | None = None, **settings: Any) -> SVDResult:
    """A quick clip."""
    quick = {"num_frames": FRAMES, "height": 128, "width": 128, "num_inference_steps": 2}
    return pipe(picture() if image is None else image, **(quick | settings))


@pytest.fixture
def unet_calls(plain: SVDPipeline) -> Iterator[list[tuple[Tensor, ...]]]:
    """What the plain pipeline's UNet is given, call by call."""
    calls: list[tuple[Tensor, ...]] = []
    hook = plain.unet.register_forward_pre_hook(lambda _, args: calls.append(args))
    yield calls
    hook.remove()


def test_a_clip_has_the_size_asked_for(plain: SVDPipeline) -> None:
    result = run(plain, height=128, width=136)

    assert result.frames.shape == (FRAMES, 128, 136, 3)
    assert result.frames.dtype == result.latents.dtype == torch.float32
    assert result.frames.min() >= 0
    assert result.frames.max() <= 1
    assert result.latents.shape == (FRAMES, 4, 16, 17)


def test_the_frames_are_the_decoded_latents(plain: SVDPipeline) -> None:
    result = run(plain)

    with torch.inference_mode():
        pixels = plain.vae.decode(result.latents / 0.18215)
    torch.testing.assert_close(result.frames, ((pixels + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1))


@pytest.mark.parametrize(("scales", "calls"), [((1.0, 1.0), 3), ((2.0, 2.0), 6), ((1.0, 3.0), 6)])
def test_without_guidance_the_unet_runs_once_a_step(
    scales: tuple[float, float], calls: int, plain: SVDPipeline, unet_calls: list[tuple[Tensor, ...]]
) -> None:
    run(plain, min_guidance_scale=scales[0], max_guidance_scale=scales[1], num_inference_steps=3)

    assert len(unet_calls) == calls


def test_the_negative_side_knows_nothing_of_the_picture_but_the_same_ids(
    plain: SVDPipeline, unet_calls: list[tuple[Tensor, ...]]
) -> None:
    run(plain, num_inference_steps=1, fps=12, motion_bucket_id=40, noise_aug_strength=0.3)
    (x, timestep, context, ids), (negative_x, negative_timestep, negative_context, negative_ids) = unet_calls

    assert torch.equal(negative_x[:, :4], x[:, :4])
    assert bool((x[:, 4:] != 0).any())
    assert bool((context != 0).any())
    assert not bool((negative_x[:, 4:] != 0).any())
    assert not bool((negative_context != 0).any())
    assert torch.equal(negative_timestep, timestep)
    torch.testing.assert_close(ids, torch.tensor([[11, 40, 0.3]]))
    assert torch.equal(negative_ids, ids)


def test_noise_is_added_to_the_picture_that_is_encoded_not_to_the_embedded(
    plain: SVDPipeline, unet_calls: list[tuple[Tensor, ...]]
) -> None:
    image_noise = noise(1, 3, 128, 128)
    run(plain, num_inference_steps=1, noise_aug_strength=0.5, image_noise=image_noise)
    x_TCHW, _, context, _ = unet_calls[0]
    pixels_BCHW = picture().permute(2, 0, 1)[None] * 2 - 1

    with torch.inference_mode():
        torch.testing.assert_close(x_TCHW[:1, 4:], plain.vae.encode(pixels_BCHW + 0.5 * image_noise))
        torch.testing.assert_close(context, plain.image_encoder(pixels_BCHW))


def test_the_same_seed_gives_the_same_clip(plain: SVDPipeline) -> None:
    assert torch.equal(run(plain, seed=5).latents, run(plain, seed=5).latents)


def test_another_seed_gives_another_clip(plain: SVDPipeline) -> None:
    assert not torch.allclose(run(plain, seed=5).latents, run(plain, seed=6).latents, atol=1e-2)


def test_a_seed_stands_for_noise_that_can_be_given(plain: SVDPipeline) -> None:
    given = run(plain, latents=draw_noise((FRAMES, 4, 16, 16), 5), image_noise=draw_noise((1, 3, 128, 128), 5))

    assert torch.equal(given.latents, run(plain, seed=5).latents)


def test_the_seed_s_noise_is_the_same_on_every_machine() -> None:
    few, many = draw_noise((2, 3), 0).flatten(), draw_noise((4, 8), 0).flatten()  # of 16 on, by AVX2 where there is one

    assert few[:3].tolist() == pytest.approx([1.5409961, -0.2934289, -2.1787894], abs=2e-6)
    assert many[[0, 7, 8, 31]].tolist() == pytest.approx([-1.1258398, -2.1152195, 0.3222749, -0.8436768], abs=2e-6)


def test_pil_pictures_and_tensors_are_the_same(plain: SVDPipeline) -> None:
    pixels = (picture() * 255).round()
    drawn = Image.fromarray(pixels.byte().numpy())

    torch.testing.assert_close(run(plain, drawn).latents, run(plain, pixels / 255).latents, atol=1e-3, rtol=0)


def test_contrast_multiplies_the_latents(plain: SVDPipeline) -> None:
    torch.testing.assert_close(run(plain, contrast=2.0).latents, 2 * run(plain).latents)


def test_with_an_extension_the_frames_are_normalised_and_the_contrast_is_raised(extended: SVDPipeline) -> None:
    latents = run(extended).latents
    bare = run(extended, normalize=False, contrast=1.0).latents

    torch.testing.assert_close(latents.std((1, 2, 3)), 1.2 * bare.std().expand(FRAMES))
    torch.testing.assert_close(latents.mean((1, 2, 3)), 1.2 * bare.mean().expand(FRAMES), atol=1e-5, rtol=0)


def test_without_an_extension_the_latents_are_left_alone(plain: SVDPipeline) -> None:
    assert torch.equal(run(plain).latents, run(plain, normalize=False, contrast=1.0).latents)


def test_defaults_depend_on_the_extension(plain: SVDPipeline, extended: SVDPipeline) -> None:
    assert plain.extension_frames is None
    assert plain.defaults == PLAIN
    assert (PLAIN.num_frames, PLAIN.fps, PLAIN.min_guidance_scale, PLAIN.max_guidance_scale) == (25, 7, 1.0, 3.0)
    assert extended.extension_frames == 8
    assert extended.defaults == extended_defaults(8)
    assert (extended.defaults.num_frames, extended.defaults.fps) == (8, 30)
    assert (extended.defaults.min_guidance_scale, extended.defaults.max_guidance_scale) == (2.0, 2.0)


def test_defaults_are_used(extended: SVDPipeline) -> None:
    said = {"num_frames": 8, "fps": 30, "min_guidance_scale": 2.0, "max_guidance_scale": 2.0}
    quick = {"height": 128, "width": 128, "num_inference_steps": 1}

    assert torch.equal(extended(picture(), **quick).latents, extended(picture(), **said, **quick).latents)


def test_a_given_video_is_where_the_run_starts(plain: SVDPipeline, unet_calls: list[tuple[Tensor, ...]]) -> None:
    clip = [picture(seed) for seed in range(FRAMES)]
    unit = noise(FRAMES, 4, 16, 16)
    run(plain, init_video=clip, denoise=0.5, latents=unit, encode_scale=0.13025)
    pixels_TCHW = torch.stack(clip).permute(0, 3, 1, 2) * 2 - 1
    sigma = karras_sigmas(2, 0.5)[0]

    with torch.inference_mode():
        expected = (plain.vae.encode(pixels_TCHW) * 0.13025 + sigma * unit) / (sigma**2 + 1).sqrt()
    torch.testing.assert_close(unet_calls[0][0][:, :4], expected)


def test_keyframes_are_shown_at_every_step(plain: SVDPipeline, unet_calls: list[tuple[Tensor, ...]]) -> None:
    unit = noise(FRAMES, 4, 16, 16)
    run(plain, keyframes={1: picture(7)}, latents=unit, min_guidance_scale=1.0, max_guidance_scale=1.0)

    with torch.inference_mode():
        held = plain.vae.encode(picture(7).permute(2, 0, 1)[None] * 2 - 1)[0] * 0.18215
    for (x_TCHW, *_), sigma in zip(unet_calls, karras_sigmas(2)[:-1], strict=True):
        torch.testing.assert_close(x_TCHW[1, :4], (held + sigma * unit[1]) / (sigma**2 + 1).sqrt())


def test_steps_and_windows_are_reported(plain: SVDPipeline) -> None:
    steps: list[tuple[int, int]] = []
    windows: list[tuple[int, int]] = []

    run(
        plain,
        num_frames=9,
        callback=lambda step, of, _: steps.append((step, of)),
        decode_progress=lambda *progress: windows.append(progress),
    )

    assert steps == [(1, 2), (2, 2)]
    assert windows == [(1, 2), (2, 2)]


@pytest.mark.parametrize(("where", "calls"), [("callback", 2), ("decode_progress", 4)])
def test_an_exception_from_a_callback_stops_the_run(
    where: str, calls: int, plain: SVDPipeline, unet_calls: list[tuple[Tensor, ...]]
) -> None:
    def cancel(*_: object) -> None:
        raise CancelError

    with pytest.raises(CancelError):
        run(plain, **{where: cancel})
    assert len(unet_calls) == calls


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_frames": 9}, r"9 frames are not possible: 2 to 8.*The nearest is 8"),
        ({"num_frames": 1}, r"1 frames are not possible: 2 to 8.*The nearest is 2"),
        ({"width": 132}, r"132x128 pixels are not possible.*nearest size is 136x128"),
        ({"height": 64}, r"128x64 pixels are not possible.*at least 128.*nearest size is 128x128"),
        ({"init_video": [picture()] * 2}, r"has 2 frames, but 3 are asked for. Set num_frames to 2"),
        ({"denoise": 0.5}, r"denoise 0.5 changes a given video, but init_video is missing"),
        ({"keyframes": {3: picture()}}, r"keyframe 3 is outside of the clip: its frames are 0 to 2"),
        ({"keyframes": {-1: picture()}}, r"keyframe -1 is outside of the clip"),
    ],
)
def test_what_the_model_cannot_make_is_refused_with_the_nearest_it_can(
    settings: dict[str, Any], message: str, extended: SVDPipeline
) -> None:
    with pytest.raises(ClipError, match=message):
        run(extended, **settings)


def test_without_an_extension_one_frame_is_too_few_and_there_is_no_upper_limit(plain: SVDPipeline) -> None:
    for few in (1, 0, -3):
        with pytest.raises(ClipError, match=f"{few} frames are not possible: 2 or more. The nearest is 2"):
            run(plain, num_frames=few)
    assert len(run(plain, num_frames=30, num_inference_steps=1).frames) == 30


@pytest.mark.parametrize(("name", "shape"), [("latents", (3, 4, 8, 8)), ("image_noise", (3, 128, 128))])
def test_noise_of_another_shape_is_an_error(name: str, shape: tuple[int, ...], plain: SVDPipeline) -> None:
    with pytest.raises(ValueError, match=f"{name} has the shape"):
        run(plain, **{name: torch.zeros(shape)})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_makes_a_similar_clip(
    dtype: torch.dtype, extended: SVDPipeline, files: tuple[Path, Path]
) -> None:
    half = load_svd(*files, dtype=dtype, device="cpu")
    result, expected = run(half), run(extended)

    assert half.dtype == dtype
    assert result.frames.dtype == torch.float32
    assert float((result.latents - expected.latents).square().mean().sqrt()) < 0.1 * float(expected.latents.std())


def test_a_single_file_loads(files: tuple[Path, Path], plain: SVDPipeline, extended: SVDPipeline) -> None:
    loaded, with_extension = load_svd(files[0], device="cpu"), load_svd(*files, device="cpu")

    assert loaded.dtype == torch.float32
    assert (loaded.extension_frames, with_extension.extension_frames) == (None, 8)
    torch.testing.assert_close(run(loaded).latents, run(plain).latents, atol=1e-3, rtol=0)
    torch.testing.assert_close(run(with_extension).latents, run(extended).latents, atol=1e-3, rtol=0)


def save_diffusers(folder: Path, pipe: SVDPipeline) -> None:
    """Weights in diffusers' layout, by the recorded names rather than the rules that read them."""
    record = Path(__file__).parents[3] / "golden" / "weight_names.json.gz"
    maps = json.loads(gzip.decompress(record.read_bytes()))["maps"]
    for part, network in (("unet", pipe.unet), ("vae", pipe.vae)):
        ours = network.state_dict()
        weights = {}
        for old, new in maps[part].items():
            name = new.removeprefix(UNET).removeprefix(DECODER).removeprefix(ENCODER)
            if name in ours:
                is_linear = re.search(r"mid_block\.attentions\.0\.to_.+\.weight", old) and part == "vae"
                weights[old] = ours[name].flatten(1) if is_linear else ours[name]
        assert len(weights) == len(ours)
        (folder / part).mkdir(parents=True)
        save_file(weights, folder / part / "diffusion_pytorch_model.safetensors")
    pipe.image_encoder.clip.save_pretrained(folder / "image_encoder")


def test_a_diffusers_folder_loads(
    files: tuple[Path, Path], plain: SVDPipeline, extended: SVDPipeline, tmp_path: Path
) -> None:
    save_diffusers(tmp_path, plain)
    loaded, with_extension = load_svd(tmp_path, device="cpu"), load_svd(tmp_path, files[1], device="cpu")

    torch.testing.assert_close(run(loaded).latents, run(plain).latents, atol=1e-3, rtol=0)
    torch.testing.assert_close(run(with_extension).latents, run(extended).latents, atol=1e-3, rtol=0)


def test_an_unknown_attention_is_refused(files: tuple[Path, Path]) -> None:
    with pytest.raises(ExVideoError, match=r"attention 'magic' is unknown; choose one of .*sdpa"):
        load_svd(files[0], attention="magic")


GOLDEN = record_svd.RECORD


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(GOLDEN)


@pytest.fixture
def agrees(golden: dict[str, Tensor]) -> Callable[[str, Tensor], bool]:
    """Whether a result equals what the reference gave, within the recorded tolerance."""
    with safe_open(GOLDEN, "pt") as file:
        tolerances = json.loads(file.metadata()["tolerances"])

    def check(name: str, ours: Tensor) -> bool:
        expected = golden[name]
        return bool((ours - expected).abs().max() <= tolerances[name] * expected.abs().max())

    return check


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["plain", "extended"])
def test_unet_equals_the_record_of_the_reference(kind: str, agrees: Callable[[str, Tensor], bool]) -> None:
    unet = build_unet(NARROW, record_svd.EXTENSION_FRAMES if kind == "extended" else None)

    assert agrees(f"unet_{kind}", unet(*record_svd.unet_inputs())[record_svd.KEPT_FRAMES])


@torch.inference_mode()
def test_autoencoder_equals_the_record_of_the_reference(agrees: Callable[[str, Tensor], bool]) -> None:
    vae = build_vae(NARROW)

    assert agrees("latents_of_video", vae.encode(record_svd.video()))
    assert agrees("video_of_latents", vae.decode(record_svd.latents()))


@torch.inference_mode()
def test_image_encoder_equals_the_record_of_the_reference(agrees: Callable[[str, Tensor], bool]) -> None:
    pixels_BCHW = record_svd.image().permute(2, 0, 1)[None] * 2 - 1

    assert agrees("image_embedding", build_image_encoder(NARROW)(pixels_BCHW))


def test_noise_levels_equal_the_record_of_the_reference(agrees: Callable[[str, Tensor], bool]) -> None:
    assert agrees("sigmas", karras_sigmas(25)[:-1])
    assert agrees("sigmas_half_denoised", karras_sigmas(25, 0.5)[:-1])


def test_a_run_equals_the_record_of_the_reference(agrees: Callable[[str, Tensor], bool]) -> None:
    pipe = build_pipeline(NARROW, record_svd.EXTENSION_FRAMES)
    result = pipe(record_svd.image(), **record_svd.RUN, **record_svd.run_noise())

    assert agrees("run_latents", result.latents)
