"""SVD's UNet: batches, contexts, sizes, number formats, and where its parts come from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from narrow_svd import NARROW, TINY, build_unet, noise
from rounding import assert_equal_but_for_rounding
from torch import Tensor, nn

from exvideo_core.errors import CheckpointError
from exvideo_core.families.svd.config import UNetConfig
from exvideo_core.families.svd.unet import SVDUNet
from exvideo_core.nn.attention import sdpa
from exvideo_core.nn.layers import sinusoid

IDS = torch.tensor([[29.0, 127.0, 0.02]])
CONTEXT = noise(1, TINY.unet.context_dim, seed=1)
STEP = torch.tensor(0.3)


def latents(frames: int, height: int = 9, width: int = 10, seed: int = 0) -> Tensor:
    return noise(frames, TINY.unet.in_channels, height, width, seed=seed)


@pytest.fixture(params=[None, 8], ids=["plain", "extended"])
def unet(request: pytest.FixtureRequest) -> SVDUNet:
    return build_unet(TINY, request.param)


@torch.inference_mode()
def test_two_clips_at_once_equal_one_by_one(unet: SVDUNet) -> None:
    clips = torch.stack([latents(4), latents(4, seed=2)])
    contexts = noise(2, 1, TINY.unet.context_dim, seed=3)
    ids = torch.tensor([[29.0, 127.0, 0.02], [6.0, 20.0, 0.5]])
    steps = torch.tensor([0.3, -1.2])

    def together(unet: SVDUNet, clips: Tensor, *conditions: Tensor) -> Tensor:
        return unet(clips.flatten(0, 1), *conditions, num_frames=4)

    def apart(unet: SVDUNet, clips: Tensor, *conditions: Tensor) -> Tensor:
        return torch.cat([unet(clips[i], *(each[i : i + 1] for each in conditions)) for i in range(2)])

    assert_equal_but_for_rounding(unet, together, apart, clips, steps, contexts, ids)


@torch.inference_mode()
def test_two_equal_tokens_say_what_one_says(unet: SVDUNet) -> None:
    def two(unet: SVDUNet, x_TCHW: Tensor, step: Tensor, context: Tensor, ids: Tensor) -> Tensor:
        return unet(x_TCHW, step, context.repeat(1, 2, 1), ids)  # takes the way through attention

    assert_equal_but_for_rounding(unet, two, SVDUNet.__call__, latents(3), STEP, CONTEXT[None], IDS)


@torch.inference_mode()
@pytest.mark.parametrize("context", [CONTEXT[0], CONTEXT, CONTEXT[None], CONTEXT[None].repeat(3, 1, 1)])
def test_context_of_any_layout_is_the_same(unet: SVDUNet, context: Tensor) -> None:
    torch.testing.assert_close(unet(latents(3), STEP, context, IDS), unet(latents(3), STEP, CONTEXT, IDS))


@torch.inference_mode()
@pytest.mark.parametrize("rows", [1, 3])
def test_timesteps_and_ids_may_come_per_frame(unet: SVDUNet, rows: int) -> None:
    def repeated(unet: SVDUNet, x_TCHW: Tensor, step: Tensor, context: Tensor, ids: Tensor) -> Tensor:
        return unet(x_TCHW, step.expand(rows), context, ids.expand(rows, 3))

    assert_equal_but_for_rounding(unet, repeated, SVDUNet.__call__, latents(3), STEP, CONTEXT, IDS)


@torch.inference_mode()
def test_ids_may_come_embedded(unet: SVDUNet) -> None:
    embedded = sinusoid(IDS[0], TINY.unet.id_dim).view(1, -1)

    assert torch.equal(unet(latents(3), STEP, CONTEXT, embedded), unet(latents(3), STEP, CONTEXT, IDS))


@torch.inference_mode()
@pytest.mark.parametrize("what", ["timestep", "context", "fps", "motion", "noise", "picture"])
def test_every_condition_changes_the_result(unet: SVDUNet, what: str) -> None:
    x_TCHW, ids = latents(3), IDS.clone()
    if what in ("fps", "motion", "noise"):
        ids[0, ("fps", "motion", "noise").index(what)] += 1
    if what == "picture":
        x_TCHW[:, 4:] += 1
    step, context = STEP + (what == "timestep"), CONTEXT + (what == "context")

    assert not torch.allclose(unet(x_TCHW, step, context, ids), unet(latents(3), STEP, CONTEXT, IDS), atol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize(("height", "width"), [(9, 9), (17, 25), (16, 10), (12, 31)])
def test_sides_that_do_not_halve_evenly_run(unet: SVDUNet, height: int, width: int) -> None:
    result = unet(latents(2, height, width), STEP, CONTEXT, IDS)

    assert result.shape == (2, 4, height, width)
    assert bool(result.isfinite().all())


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_close(unet: SVDUNet, dtype: torch.dtype) -> None:
    expected = unet(latents(3), STEP, CONTEXT, IDS)
    result = unet.to(dtype)(latents(3).to(dtype), STEP, CONTEXT, IDS)

    assert result.dtype == dtype
    assert float((result.float() - expected).square().mean().sqrt()) < 0.1 * float(expected.std())


@pytest.mark.parametrize(
    ("shape", "num_frames"), [((4, 7, 16, 16), None), ((4, 8, 16, 16), 3)], ids=["channels", "frames"]
)
def test_other_shapes_are_errors(unet: SVDUNet, shape: tuple[int, ...], num_frames: int | None) -> None:
    with pytest.raises(ValueError, match="expected"):
        unet(torch.zeros(shape), STEP, CONTEXT, IDS, num_frames=num_frames)


def test_frame_ids_of_another_length_are_an_error(unet: SVDUNet) -> None:
    with pytest.raises(ValueError, match="2 frame ids were given for 3 frames"):
        unet(latents(3), STEP, CONTEXT, IDS, frame_ids=[0, 1])


@torch.inference_mode()
def test_attention_goes_through_the_given_function(unet: SVDUNet) -> None:
    calls: list[int] = []

    def counted(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        calls.append(q.shape[1])
        return sdpa(q, k, v)

    own = SVDUNet(unet.config, attention=counted)
    own.load_state_dict(unet.state_dict(), assign=True)

    torch.testing.assert_close(own(latents(3), STEP, CONTEXT, IDS), unet(latents(3), STEP, CONTEXT, IDS))
    assert len(calls) == 2 * 16  # over cells and over frames; the single token needs none


def test_every_weight_is_in_a_layer_of_the_given_namespace() -> None:
    names = ("Linear", "Conv2d", "Conv3d", "GroupNorm", "LayerNorm", "Embedding")
    own = {name: type(name, (getattr(nn, name),), {}) for name in names}
    unet = SVDUNet(replace(TINY.unet, extension_frames=8), ops=type("Ops", (), own))  # type: ignore[arg-type]
    elsewhere = {
        name
        for name, module in unet.named_modules()
        for weight, _ in module.named_parameters(recurse=False)
        if type(module) not in own.values() and weight != "mix_factor"
    }

    assert not elsewhere


@pytest.mark.parametrize(
    "config",
    [
        UNetConfig(),
        UNetConfig(extension_frames=128),
        NARROW.unet,
        replace(TINY.unet, extension_frames=5),
        UNetConfig(widths=(8, 16), blocks_per_level=1, attention_levels=(1,), context_dim=4, time_dim=8, id_dim=2),
        UNetConfig(widths=(8, 8, 8), blocks_per_level=3, attention_levels=(0, 2), in_channels=9, out_channels=5),
    ],
    ids=["xt", "128f", "narrow", "tiny", "two levels", "other"],
)
def test_sizes_are_read_from_the_weights(config: UNetConfig) -> None:
    with torch.device("meta"):
        weights = SVDUNet(config).state_dict()

    assert UNetConfig.from_shapes({name: tuple(weight.shape) for name, weight in weights.items()}) == config


@pytest.mark.parametrize("lost", ["input_blocks.0.0.weight", "time_embed.0.weight", "label_emb.0.0.weight"])
def test_an_incomplete_unet_is_an_error(lost: str) -> None:
    shapes = {name: tuple(weight.shape) for name, weight in build_unet().state_dict().items() if name != lost}

    with pytest.raises(CheckpointError, match=f"not a complete SVD UNet.*{lost}"):
        UNetConfig.from_shapes(shapes)
