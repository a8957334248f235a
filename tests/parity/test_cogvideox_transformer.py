"""Our CogVideoX transformer against DiffSynth-Studio's and diffusers', in float32, on the same weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from narrow_cogvideox import NARROW, build_transformer
from narrow_svd import noise

from exvideo_core.families.cogvideox.rope import crop_region, rope_angles
from exvideo_core.families.cogvideox.transformer import CogVideoXTransformer
from parity import references_cogvideox as references
from parity.references import diffsynth

pytestmark = pytest.mark.parity

TOLERANCE = 1e-5
WORDS = 12
# T, height and width of the latents: the published proportions, wider, higher, and the extended clip
SIZES = [(3, 8, 12), (13, 6, 14), (13, 12, 6), (33, 4, 6)]
# tokens of 480x720, 720x480, 512x512, 256x1024, 768x1360 and odd counts
GRIDS = [(30, 45), (45, 30), (32, 32), (16, 64), (48, 85), (1, 1), (7, 3), (3, 7)]


def of_heads(heads: int, **changes):
    return replace(NARROW.transformer, width=64 * heads, hidden=256 * heads, **changes)


def inputs(frames, height, width, config, batch=2):
    x_BCTHW = noise(batch, config.in_channels, frames, height, width)
    return x_BCTHW, torch.tensor(499), noise(batch, WORDS, config.text_dim, seed=1)


@pytest.fixture(scope="module")
def ours() -> CogVideoXTransformer:
    return build_transformer(NARROW.transformer)


@pytest.fixture(scope="module")
def synth(ours):
    return references.diffsynth_transformer(ours.state_dict(), ours.config)


@pytest.fixture(scope="module")
def diffusers(ours):
    return references.diffusers_transformer(ours.state_dict(), ours.config)


@torch.inference_mode()
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_transformer_equals_diffsynth(size, ours, synth, relative_error):
    x, step, context = inputs(*size, ours.config)

    assert relative_error(ours(x, step, context), synth(x, step[None], context)) <= TOLERANCE


@torch.inference_mode()
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_transformer_equals_diffusers(size, ours, diffusers, relative_error):
    call = inputs(*size, ours.config)

    assert relative_error(ours(*call), references.diffusers_velocity(diffusers, *call)) <= TOLERANCE


@torch.inference_mode()
@pytest.mark.parametrize("steps", [(0, 999), (999, 0), (20, 21)], ids=str)
def test_a_timestep_for_each_clip_equals_both(steps, ours, synth, diffusers, relative_error):
    x, _, context = inputs(3, 8, 12, ours.config)
    call = x, torch.tensor(steps), context
    velocity = ours(*call)

    assert relative_error(velocity, synth(*call)) <= TOLERANCE
    assert relative_error(velocity, references.diffusers_velocity(diffusers, *call)) <= TOLERANCE


@torch.inference_mode()
@pytest.mark.parametrize(("heads", "layers"), [(1, 1), (3, 1), (1, 4)])
def test_other_sizes_equal_both(heads, layers, relative_error):
    config = of_heads(heads, layers=layers, time_dim=48, text_dim=24)
    ours = build_transformer(config, seed=heads)
    weights = ours.state_dict()
    call = inputs(5, 8, 8, config)
    velocity = ours(*call)
    diffusers = references.diffusers_transformer(weights, config)

    assert relative_error(velocity, references.diffusers_velocity(diffusers, *call)) <= TOLERANCE
    x, step, context = call
    assert relative_error(velocity, references.diffsynth_transformer(weights, config)(x, step[None], context)) <= 1e-5


@torch.inference_mode()
def test_other_head_widths_equal_diffusers(relative_error):
    config = replace(NARROW.transformer, head_dim=32)
    ours = build_transformer(config)
    call = inputs(5, 8, 8, config)
    diffusers = references.diffusers_transformer(ours.state_dict(), config)

    assert relative_error(ours(*call), references.diffusers_velocity(diffusers, *call)) <= TOLERANCE


@torch.inference_mode()
def test_image_to_video_variant_equals_diffusers(relative_error):
    size = (3, 8, 12)
    config = replace(NARROW.transformer, in_channels=32, learned_positions=WORDS + 3 * 4 * 6)
    ours = build_transformer(config)
    call = inputs(*size, config)
    diffusers = references.diffusers_transformer(ours.state_dict(), config, WORDS, size)

    assert relative_error(ours(*call), references.diffusers_velocity(diffusers, *call)) <= TOLERANCE


@torch.inference_mode()
def test_the_end_of_a_clip_by_itself_equals_diffusers_with_its_positions(ours, diffusers, relative_error):
    x, step, context = inputs(3, 8, 12, ours.config)
    cos, sin = (part[30 * 24 :] for part in references.diffsynth_rotary(33, 4, 6))
    reference = references.diffusers_velocity(diffusers, x, step, context, (cos, sin))

    assert relative_error(ours(x, step, context, torch.tensor([30, 31, 32])), reference) <= TOLERANCE
    by_clip = ours(x, step, context, torch.tensor([[0, 1, 2], [30, 31, 32]]))
    assert relative_error(by_clip[1], reference[1]) <= TOLERANCE
    assert relative_error(by_clip[0], references.diffusers_velocity(diffusers, x, step, context)[0]) <= TOLERANCE


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("head_dim", [16, 64])
def test_positions_equal_diffsynth(grid, head_dim, relative_error):
    angles = rope_angles(torch.arange(3), *grid, head_dim).repeat_interleave(2, -1)
    cos, sin = references.diffsynth_rotary(3, *grid, head_dim)

    assert relative_error(angles.cos(), cos) <= TOLERANCE
    assert relative_error(angles.sin(), sin) <= TOLERANCE


@pytest.mark.parametrize("frames", [1, 13, 33])
def test_frames_count_on_as_in_both(frames, relative_error):
    from diffusers.models.embeddings import get_3d_rotary_pos_embed

    region = crop_region(30, 45)
    angles = rope_angles(torch.arange(frames), 30, 45, 64).repeat_interleave(2, -1)

    assert region == ((0, 0), (30, 45))  # where diffusers' formula still agrees
    for reference in (
        references.diffsynth_rotary(frames, 30, 45),
        get_3d_rotary_pos_embed(64, region, (30, 45), frames),
    ):
        for ours, theirs in zip((angles.cos(), angles.sin()), reference, strict=True):
            assert relative_error(ours, theirs) <= TOLERANCE


@pytest.mark.parametrize("height", range(1, 49, 3))
@pytest.mark.parametrize("width", [1, 2, 9, 30, 44, 45, 46, 85])
def test_crop_region_equals_both(height, width):
    from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid

    ours = crop_region(height, width)

    assert ours == diffsynth("models.cog_dit").CogDiT.get_resize_crop_region_for_grid(None, (height, width), 45, 30)
    assert ours == get_resize_crop_region_for_grid((height, width), 45, 30)
