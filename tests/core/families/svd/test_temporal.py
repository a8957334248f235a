"""ExVideo's extension: nothing until trained, then frame positions and a convolution over neighbours."""

from __future__ import annotations

import pytest
import torch
from narrow_svd import NARROW, TINY, Sizes, build_unet, noise, reset_extension
from torch import Tensor, nn

from exvideo_core.errors import ClipError
from exvideo_core.families.svd.temporal import TemporalExtension, folded_positions
from exvideo_core.families.svd.unet import SVDUNet
from exvideo_core.nn.layers import sinusoid


def call(frames: int, height: int = 9, width: int = 10, sizes: Sizes = TINY) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Arguments of a UNet."""
    x_TCHW = noise(frames, sizes.unet.in_channels, height, width)
    return x_TCHW, torch.tensor(0.3), noise(1, sizes.unet.context_dim, seed=1), torch.tensor([[29.0, 127.0, 0.02]])


def untrained(base: SVDUNet, frames: int) -> SVDUNet:
    """The base's own weights, with an extension as training starts it."""
    unet = build_unet(NARROW, extension_frames=frames)
    reset_extension(unet)
    # assigned: some matrix kernels round differently at another address in memory, most of all narrow ones
    unet.load_state_dict(base.state_dict(), strict=False, assign=True)
    return unet


@torch.inference_mode()
@pytest.mark.parametrize("frames", [2, 24, 25])
def test_untrained_extension_is_exactly_the_base(frames: int) -> None:
    base = build_unet(NARROW)
    inputs = call(frames, sizes=NARROW)

    assert torch.equal(untrained(base, 128)(*inputs), base(*inputs))


@torch.inference_mode()
def test_untrained_extension_sees_frames_past_the_base_s_at_folded_positions() -> None:
    base = build_unet(NARROW)
    inputs = call(6, sizes=NARROW)
    extended = untrained(base, 128)

    assert torch.equal(extended(*inputs, frame_ids=range(23, 29)), base(*inputs, frame_ids=[23, 24, 23, 22, 21, 20]))


def test_folded_positions_walk_back_and_forth() -> None:
    down, up = [*range(23, 3, -1)], [*range(5, 25)]
    positions = folded_positions(128).tolist()

    assert positions == [*range(25), *down, *up, *down, *up, *down, *up][:128]
    assert positions[-4:] == [4, 5, 6, 7]


def test_an_untrained_table_holds_the_base_s_sinusoids() -> None:
    extension = TemporalExtension(8, 128)
    extension.reset()

    assert torch.equal(extension.positions.weight, sinusoid(folded_positions(128), 8))


def test_the_convolution_reflects_at_the_borders() -> None:
    extension = TemporalExtension(channels=1, max_frames=4)
    extension.mix.weight.data.fill_(1 / 27)
    extension.mix.bias.data.zero_()
    ramp_BCTHW = torch.arange(4.0).view(1, 1, 4, 1, 1).expand(1, 1, 4, 3, 3)

    mixed_BCTHW = extension(ramp_BCTHW, torch.arange(4), torch.zeros_like)

    torch.testing.assert_close(mixed_BCTHW[0, 0, :, 0, 0], torch.tensor([2, 3, 6, 7]) / 3)


def test_positions_are_added_before_the_convolution() -> None:
    extension = TemporalExtension(channels=2, max_frames=3)
    x_BCTHW, frame_ids = noise(1, 2, 3, 4, 4), torch.arange(3)
    moved_BCTHW = x_BCTHW + extension.positions.weight.T[None, :, :, None, None]

    placed_BCTHW = extension(x_BCTHW, frame_ids, nn.Identity())

    torch.testing.assert_close(placed_BCTHW, extension(moved_BCTHW, frame_ids, torch.zeros_like))


@torch.inference_mode()
@pytest.mark.parametrize("extension_frames", [None, 8])
def test_explicit_frame_ids_equal_the_implicit(extension_frames: int | None) -> None:
    unet = build_unet(TINY, extension_frames)

    assert torch.equal(unet(*call(5), frame_ids=range(5)), unet(*call(5)))


@torch.inference_mode()
def test_frame_ids_choose_rows_of_the_table() -> None:
    unet, shifted = build_unet(TINY, 8), build_unet(TINY, 8)
    inputs = call(4)
    for module in shifted.modules():
        if isinstance(module, TemporalExtension):
            module.positions.weight.data = module.positions.weight.roll(-3, dims=0)

    torch.testing.assert_close(unet(*inputs, frame_ids=[3, 4, 5, 6]), shifted(*inputs), atol=1e-5, rtol=0)
    assert not torch.allclose(unet(*inputs), shifted(*inputs), atol=1e-2)


@pytest.mark.parametrize("frame_ids", [None, [0, 1, 2, 3, 4, 5, 6, 7, 8]])
def test_a_frame_beyond_the_table_is_an_error(frame_ids: list[int] | None) -> None:
    unet = build_unet(TINY, 8)

    with pytest.raises(ClipError, match="9 frames were asked for, but this extension was trained for 8"):
        unet(*call(9), frame_ids=frame_ids)


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 16, 16), (2, 8, 16), (2, 16, 8)])
def test_too_few_cells_to_reflect_are_an_error(frames: int, height: int, width: int) -> None:
    unet = build_unet(TINY, 8)

    with pytest.raises(ClipError, match="at least 2 frames of 72x72"):
        unet(*call(frames, height, width))


@torch.inference_mode()
def test_the_smallest_clip_runs() -> None:
    assert build_unet(TINY, 8)(*call(2, 9, 9)).shape == (2, 4, 9, 9)


@torch.inference_mode()
def test_trained_extension_couples_neighbouring_frames_both_ways() -> None:
    unet = build_unet(TINY, 8)
    x_TCHW, *rest = call(5)
    changed_TCHW = x_TCHW.clone()
    changed_TCHW[2] += 1

    difference = (unet(changed_TCHW, *rest) - unet(x_TCHW, *rest)).abs().amax(dim=(1, 2, 3))

    assert bool((difference > 0).all())
