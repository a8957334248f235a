"""Text to video: what a call does with its settings, what it refuses, and how it is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from narrow_cogvideox import TINY, build_transformer, build_vae, save_files
from narrow_svd import fill, noise
from safetensors.torch import save_file
from torch import Tensor

from exvideo_core import CheckpointError, ClipError, CogVideoXPipeline, CogVideoXResult, ExVideoError, load_cogvideox
from exvideo_core.families.cogvideox import pipeline as cogvideox
from exvideo_core.families.cogvideox.methods import METHODS
from exvideo_core.families.cogvideox.text_encoder import TextEncoder, TextEncoderConfig, Tokenizer, build_t5
from exvideo_core.sampling.inputs import SeededNoise, draw_noise
from exvideo_core.sampling.schedules import alpha_levels, linspace_timesteps, trailing_timesteps

FRAMES, HEIGHT, WIDTH = 9, 32, 48
LATENTS = (1, 16, 3, 4, 6)
CONTEXT, OTHER = noise(1, 5, 8, seed=1), noise(1, 5, 8, seed=2)


class CancelError(Exception):
    """What a host raises from a callback."""


def build_text_encoder(seed: int = 0) -> TextEncoder:
    encoder = TextEncoder(
        build_t5(TextEncoderConfig(d_model=8, num_layers=1, num_heads=2, d_kv=4, d_ff=16)), Tokenizer()
    )
    fill(encoder, seed)
    return encoder.eval()


@pytest.fixture(scope="module")
def pipe() -> CogVideoXPipeline:
    return CogVideoXPipeline(build_transformer(), build_vae(), build_text_encoder())


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tiny")
    transformer, vae = save_files(folder, TINY)
    weights = {name: weight.clone() for name, weight in build_text_encoder().t5.state_dict().items()}
    save_file(weights, folder / "t5.safetensors")
    return {"transformer": transformer, "vae": vae, "text_encoder": folder / "t5.safetensors"}


def run(pipe: CogVideoXPipeline, prompt: str | None = None, **settings: Any) -> CogVideoXResult:
    """A quick clip; of given embeddings, unless it is of a prompt."""
    quick = {"num_frames": FRAMES, "height": HEIGHT, "width": WIDTH, "num_inference_steps": 2}
    given = {} if prompt else {"prompt_embeds": CONTEXT, "negative_prompt_embeds": OTHER}
    return pipe(prompt, **(quick | given | settings))


def clip(frames: int = FRAMES) -> list[Tensor]:
    """Pictures [H, W, 3] in [0, 1]."""
    return list(torch.rand(frames, HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def calls(pipe: CogVideoXPipeline) -> Iterator[list[tuple[Tensor, Tensor, Tensor]]]:
    """What the transformer is given, call by call: x, timestep, context."""
    calls: list[tuple[Tensor, Tensor, Tensor]] = []
    hook = pipe.transformer.register_forward_pre_hook(lambda _, args: calls.append(args))
    yield calls
    hook.remove()


def test_a_clip_has_the_size_asked_for(pipe: CogVideoXPipeline) -> None:
    result = run(pipe, num_frames=17)

    assert result.frames.shape == (17, HEIGHT, WIDTH, 3)
    assert result.latents.shape == (1, 16, 5, 4, 6)
    assert result.frames.dtype == result.latents.dtype == torch.float32
    assert result.frames.min() >= 0
    assert result.frames.max() <= 1


def test_the_frames_are_the_decoded_latents(pipe: CogVideoXPipeline) -> None:
    result = run(pipe)

    with torch.inference_mode():
        pixels = pipe.vae.decode(result.latents / 0.7)
    torch.testing.assert_close(result.frames, ((pixels[0] + 1) / 2).clamp(0, 1).permute(1, 2, 3, 0))


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_clip_and_another_another(method: str, pipe: CogVideoXPipeline) -> None:
    first, again, other = (run(pipe, method=method, num_inference_steps=3, seed=seed).latents for seed in (5, 5, 6))

    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-2)


@pytest.mark.parametrize("method", METHODS)
def test_a_seed_stands_for_noise_that_can_be_given(method: str, pipe: CogVideoXPipeline) -> None:
    settings = {"method": method, "num_inference_steps": 3, "seed": 5}

    assert torch.equal(run(pipe, latents=draw_noise(LATENTS, 5), **settings).latents, run(pipe, **settings).latents)
    assert not torch.allclose(
        run(pipe, latents=noise(*LATENTS, seed=6), **settings).latents, run(pipe, **settings).latents
    )


def test_a_seed_s_noise_goes_on_after_the_first() -> None:
    draw = SeededNoise((2, 3), 5)
    first, second = draw(), draw()

    assert torch.equal(first, draw_noise((2, 3), 5))
    assert not torch.equal(first, second)


def test_methods_are_different_ways(pipe: CogVideoXPipeline) -> None:
    latents = [run(pipe, method=method, num_inference_steps=4).latents for method in METHODS]

    for index, one in enumerate(latents):
        assert all(not torch.allclose(one, other, atol=1e-3) for other in latents[index + 1 :])


@pytest.mark.parametrize(
    ("method", "timesteps"),
    [("ddim", [999, 666, 333, 0]), ("ddim_trailing", [999, 749, 499, 249]), ("dpmpp_2m_sde", [999, 749, 499, 249])],
)
def test_the_transformer_is_told_the_timestep(
    method: str, timesteps: list[int], pipe: CogVideoXPipeline, calls: list[tuple[Tensor, ...]]
) -> None:
    run(pipe, method=method, num_inference_steps=4, guidance_scale=1.0)

    assert [int(timestep) for _, timestep, _ in calls] == timesteps


def test_the_run_starts_from_the_noise_itself(pipe: CogVideoXPipeline, calls: list[tuple[Tensor, ...]]) -> None:
    run(pipe, latents=noise(*LATENTS))

    assert torch.equal(calls[0][0], noise(*LATENTS))


def test_with_guidance_the_transformer_runs_for_the_prompt_and_for_the_negative_one(
    pipe: CogVideoXPipeline, calls: list[tuple[Tensor, ...]]
) -> None:
    run(pipe, num_inference_steps=1)
    (x, timestep, context), (negative_x, negative_timestep, negative_context) = calls

    assert torch.equal(context, CONTEXT)
    assert torch.equal(negative_context, OTHER)
    assert torch.equal(negative_x, x)
    assert torch.equal(negative_timestep, timestep)


def test_guidance_goes_past_the_prompt(pipe: CogVideoXPipeline) -> None:
    def predicted(context: Tensor) -> Tensor:
        with torch.inference_mode():
            return pipe.transformer(noise(*LATENTS), torch.tensor(999), context)

    result = run(pipe, num_inference_steps=1, guidance_scale=3.0, latents=noise(*LATENTS))

    # in one step from pure noise, the clean latents are -v
    torch.testing.assert_close(result.latents, -(predicted(OTHER) + 3 * (predicted(CONTEXT) - predicted(OTHER))))


def test_without_guidance_the_negative_prompt_is_not_used(
    pipe: CogVideoXPipeline, calls: list[tuple[Tensor, ...]]
) -> None:
    run(pipe, num_inference_steps=3, guidance_scale=1.0, negative_prompt_embeds=None)

    assert len(calls) == 3
    assert all(torch.equal(context, CONTEXT) for _, _, context in calls)


def test_guidance_may_change_from_step_to_step(pipe: CogVideoXPipeline, calls: list[tuple[Tensor, ...]]) -> None:
    steps: list[Tensor] = []
    run(pipe, num_inference_steps=3, guidance_scale=[1.0, 4.0, 1.0], callback=lambda *report: steps.append(report[2]))
    constant: list[Tensor] = []
    run(pipe, num_inference_steps=3, guidance_scale=1.0, callback=lambda *report: constant.append(report[2]))

    assert len(calls) == 4 + 3
    assert torch.equal(steps[0], constant[0])
    assert not torch.allclose(steps[1], constant[1], atol=1e-3)


def test_a_prompt_is_its_embedding(pipe: CogVideoXPipeline) -> None:
    assert pipe.text_encoder
    with torch.inference_mode():
        embeds = pipe.text_encoder(["a red fox", "blurry"]).split(1)  # in one call, as the pipeline does
    given = run(pipe, prompt_embeds=embeds[0], negative_prompt_embeds=embeds[1])

    assert torch.equal(run(pipe, "a red fox", negative_prompt="blurry").latents, given.latents)


def test_the_negative_prompt_may_be_a_sentence_beside_a_given_embedding(
    pipe: CogVideoXPipeline, calls: list[tuple[Tensor, ...]]
) -> None:
    assert pipe.text_encoder
    run(pipe, num_inference_steps=1, negative_prompt_embeds=None, negative_prompt="blurry")

    with torch.inference_mode():
        expected = pipe.text_encoder(["blurry"])
    assert torch.equal(calls[0][2], CONTEXT)
    torch.testing.assert_close(calls[1][2], expected)


@pytest.mark.parametrize(("method", "grid"), [("ddim", linspace_timesteps), ("dpmpp_2m", trailing_timesteps)])
def test_a_given_video_is_where_the_run_starts(
    method: str, grid: Any, pipe: CogVideoXPipeline, calls: list[tuple[Tensor, ...]]
) -> None:
    unit = noise(*LATENTS)
    run(pipe, init_video=clip(), denoise=0.5, latents=unit, method=method)
    alpha = alpha_levels(grid(2, 0.5))[0]

    with torch.inference_mode():
        clean = pipe.vae.encode(torch.stack(clip()).permute(3, 0, 1, 2)[None] * 2 - 1) * 0.7
    assert int(calls[0][1]) == 499
    torch.testing.assert_close(calls[0][0], alpha.sqrt() * clean + (1 - alpha).sqrt() * unit)


def test_at_full_denoise_nothing_of_a_given_video_is_left(pipe: CogVideoXPipeline) -> None:
    assert torch.equal(run(pipe, init_video=clip()).latents, run(pipe).latents)


def test_a_little_denoise_changes_little(pipe: CogVideoXPipeline) -> None:
    with torch.inference_mode():
        clean = pipe.vae.encode(torch.stack(clip()).permute(3, 0, 1, 2)[None] * 2 - 1) * 0.7
    errors = [
        float((run(pipe, init_video=clip(), denoise=denoise, guidance_scale=1.0).latents - clean).abs().mean())
        for denoise in (0.005, 0.5)
    ]

    assert errors[0] < 0.1 * errors[1]


def test_steps_and_pieces_are_reported(pipe: CogVideoXPipeline) -> None:
    steps: list[tuple[int, int]] = []
    chunks: list[tuple[int, int]] = []

    run(
        pipe,
        num_frames=17,
        callback=lambda step, of, _: steps.append((step, of)),
        decode_progress=lambda *progress: chunks.append(progress),
    )

    assert steps == [(1, 2), (2, 2)]
    assert chunks == [(1, 2), (2, 2)]


@pytest.mark.parametrize(("where", "expected"), [("callback", 2), ("decode_progress", 4)])
def test_an_exception_from_a_callback_stops_the_run(
    where: str, expected: int, pipe: CogVideoXPipeline, calls: list[tuple[Tensor, ...]]
) -> None:
    def cancel(*_: object) -> None:
        raise CancelError

    with pytest.raises(CancelError):
        run(pipe, **{where: cancel})
    assert len(calls) == expected


def test_decoding_in_tiles_is_nearly_the_same(pipe: CogVideoXPipeline) -> None:
    whole, tiled = run(pipe), run(pipe, decode_tile=4)

    assert torch.equal(whole.latents, tiled.latents)
    assert whole.frames.shape == tiled.frames.shape
    assert 0 < float((whole.frames - tiled.frames).abs().mean()) < 0.2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_frames": 128}, r"128 frames are not possible.*8 k \+ 1.*nearest are 121 and 129"),
        ({"num_frames": 13}, r"13 frames are not possible.*nearest are 9 and 17"),
        ({"num_frames": 1}, r"1 frames are not possible.*at least 9. The nearest is 9"),
        ({"width": 40}, r"40x32 pixels are not possible.*multiples of 16.*nearest size is 48x32"),
        ({"num_inference_steps": 0}, r"0 steps are not possible: 1 to 1000 at denoise 1.0. The nearest is 1"),
        ({"num_inference_steps": 11, "denoise": 0.01}, r"11 steps are not possible: 1 to 10 at .*0.01. .*is 10"),
        ({"denoise": 0.0}, r"denoise 0.0 is not possible: it must be above 0 and at most 1"),
        ({"denoise": 0.5}, r"denoise 0.5 changes a given video, but init_video is missing"),
        ({"init_video": clip(5)}, r"has 5 frames, but 9 are asked for. Set num_frames to 5"),
    ],
)
def test_what_the_model_cannot_make_is_refused_with_the_nearest_it_can(
    settings: dict[str, Any], message: str, pipe: CogVideoXPipeline
) -> None:
    with pytest.raises(ClipError, match=message):
        run(pipe, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latents": torch.zeros(1, 16, 3, 4, 4)}, r"latents has the shape \[1, 16, 3, 4, 4\]; \[1, 16, 3, 4, 6\] is"),
        ({"prompt_embeds": torch.zeros(2, 5, 8)}, r"an embedding has the shape \[2, 5, 8\]; \[1, tokens, 8\]"),
        ({"negative_prompt_embeds": torch.zeros(1, 5, 9)}, r"shape \[1, 5, 9\]"),
        ({"guidance_scale": [2.0] * 3}, r"guidance_scale has 3 values for 2 steps"),
    ],
)
def test_tensors_of_another_shape_are_errors(settings: dict[str, Any], message: str, pipe: CogVideoXPipeline) -> None:
    with pytest.raises(ValueError, match=message):
        run(pipe, **settings)


def test_a_missing_prompt_or_encoder_is_said(pipe: CogVideoXPipeline) -> None:
    without = CogVideoXPipeline(pipe.transformer, pipe.vae)

    assert torch.equal(run(without).latents, run(pipe).latents)
    with pytest.raises(ExVideoError, match="there is no prompt"):
        run(pipe, prompt_embeds=None)
    with pytest.raises(ExVideoError, match="no text encoder is loaded"):
        run(without, "a red fox")
    with pytest.raises(ExVideoError, match="negative_prompt_embeds unless guidance_scale is 1"):
        run(without, negative_prompt_embeds=None)


def test_an_unknown_method_is_refused_with_those_there_are(pipe: CogVideoXPipeline) -> None:
    with pytest.raises(ExVideoError, match="method 'euler' is unknown; choose one of ddim, ddim_trailing, dpmpp_2m"):
        run(pipe, method="euler")


def test_the_image_to_video_transformer_is_refused_with_the_one_to_take(pipe: CogVideoXPipeline) -> None:
    other = build_transformer(replace(TINY.transformer, in_channels=32, learned_positions=40))

    with pytest.raises(ExVideoError, match=r"image-to-video one; .* choose the transformer of THUDM/CogVideoX-5b"):
        run(CogVideoXPipeline(other, pipe.vae))


def test_the_text_encoder_visits_the_device_to_encode(
    pipe: CogVideoXPipeline, calls: list[tuple[Tensor, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    visits: list[tuple[object, ...]] = []

    @contextmanager
    def visit(*visit: object) -> Iterator[None]:
        yield
        visits.append((*visit, len(calls)))

    monkeypatch.setattr(cogvideox, "temporarily_on", visit)
    run(pipe, "a red fox")

    # it had left before the first of the calls
    assert visits == [(pipe.text_encoder, torch.device("cpu"), float("inf"), 0)]
    assert len(calls) == 4


def test_files_load(files: dict[str, Path], pipe: CogVideoXPipeline) -> None:
    loaded = load_cogvideox(**files, device="cpu")

    assert loaded.dtype == torch.float32
    torch.testing.assert_close(run(loaded, "a red fox").latents, run(pipe, "a red fox").latents)


def test_the_text_encoder_is_optional(files: dict[str, Path], pipe: CogVideoXPipeline) -> None:
    loaded = load_cogvideox(files["transformer"], vae=files["vae"], device="cpu")

    assert loaded.text_encoder is None
    torch.testing.assert_close(run(loaded).latents, run(pipe).latents)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_makes_a_similar_clip(
    dtype: torch.dtype, files: dict[str, Path], pipe: CogVideoXPipeline
) -> None:
    half = load_cogvideox(**files, dtype=dtype, device="cpu")
    result, expected = run(half, "a red fox", guidance_scale=1.0), run(pipe, "a red fox", guidance_scale=1.0)

    assert half.dtype == dtype
    assert result.frames.dtype == result.latents.dtype == torch.float32
    assert float((result.latents - expected.latents).square().mean().sqrt()) < 0.1 * float(expected.latents.std())


def test_files_in_the_wrong_place_are_refused(files: dict[str, Path]) -> None:
    with pytest.raises(CheckpointError, match="is a CogVideoX VAE, not the transformer"):
        load_cogvideox(files["vae"], vae=files["transformer"])
    with pytest.raises(ExVideoError, match="attention 'magic' is unknown"):
        load_cogvideox(**files, attention="magic")
