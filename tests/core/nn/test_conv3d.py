"""Convolutions of volumes as convolutions of images, against torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from narrow_svd import fill, noise
from rounding import assert_equal_but_for_rounding
from torch import Tensor, nn

from exvideo_core.estimate.counting import count
from exvideo_core.nn import conv3d as conv3d_module
from exvideo_core.nn.conv3d import bind_conv3d_of_frames, conv3d

KERNELS = {
    "1x1x1": ((1, 1, 1), (0, 0, 0)),
    "3x1x1": ((3, 1, 1), (1, 0, 0)),
    "3x3x3": ((3, 3, 3), (0, 0, 0)),
    "3x3x3 padded in space": ((3, 3, 3), (0, 1, 1)),
}


@pytest.fixture
def by_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute as on a GPU."""
    monkeypatch.setattr(conv3d_module, "_by_frames", lambda _: True)


def build(kind: str, channels: int = 24, out_channels: int = 8, bias: bool = True) -> nn.Conv3d:
    kernel, padding = KERNELS[kind]
    layer = nn.Conv3d(channels, out_channels, kernel, padding=padding, bias=bias)
    fill(layer)
    return layer


@torch.inference_mode()
@pytest.mark.usefixtures("by_frames")
@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("size", [(1, 24, 3, 4, 5), (2, 24, 7, 5, 3)], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d], ids=["planes", "channels last"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_as_images_it_is_the_layer(kind: str, size: tuple[int, ...], layout: torch.memory_format, bias: bool) -> None:
    layer, x_BCTHW = build(kind, bias=bias), noise(*size).contiguous(memory_format=layout)

    assert_equal_but_for_rounding(layer, conv3d, nn.Conv3d.__call__, x_BCTHW)


@torch.inference_mode()
@pytest.mark.usefixtures("by_frames")
@pytest.mark.parametrize("frames", [1, 2])
def test_short_clips_have_nothing_before_and_after(frames: int) -> None:
    layer, x_BCTHW = build("3x1x1"), noise(1, 24, frames, 4, 5)

    assert_equal_but_for_rounding(layer, conv3d, nn.Conv3d.__call__, x_BCTHW)


@torch.inference_mode()
@pytest.mark.usefixtures("by_frames")
@pytest.mark.parametrize("kind", KERNELS)
def test_channels_stay_last(kind: str) -> None:
    x_BCTHW = noise(1, 64, 5, 16, 16).contiguous(memory_format=torch.channels_last_3d)

    assert conv3d(build(kind, 64), x_BCTHW).is_contiguous(memory_format=torch.channels_last_3d)


@torch.inference_mode()
@pytest.mark.usefixtures("by_frames")
@pytest.mark.parametrize("kind", KERNELS)
def test_a_layer_with_hooks_is_called_itself(kind: str) -> None:
    layer, x_BCTHW = build(kind), noise(1, 24, 5, 4, 5)
    expected = layer(x_BCTHW) + 1
    layer.register_forward_hook(lambda _module, _inputs, out: out + 1)

    torch.testing.assert_close(conv3d(layer, x_BCTHW), expected)


@pytest.mark.usefixtures("by_frames")
@pytest.mark.parametrize("kind", KERNELS)
def test_gradients_are_the_layer_s(kind: str) -> None:
    layer, x_BCTHW = build(kind), noise(1, 24, 5, 4, 5).requires_grad_()
    conv3d(layer, x_BCTHW).square().sum().backward()

    for tensor in (x_BCTHW, layer.weight, layer.bias):
        assert tensor.grad is not None
        assert bool(tensor.grad.any())


@torch.inference_mode()
@pytest.mark.parametrize(("kind", "calls"), list(zip(KERNELS, (0, 0, 1, 1), strict=True)))
def test_on_a_cpu_only_the_largest_is_of_volumes(kind: str, calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, of_volumes = [], F.conv3d
    monkeypatch.setattr(F, "conv3d", lambda x, *rest: seen.append(x) or of_volumes(x, *rest))
    conv3d(build(kind), noise(1, 24, 5, 4, 5))

    assert len(seen) == calls


@torch.inference_mode()
@pytest.mark.usefixtures("by_frames")
@pytest.mark.parametrize("kind", KERNELS)
def test_frames_in_the_order_of_memory_are_not_copied(kind: str) -> None:
    with torch.device("meta"):
        layer, x_TCHW = build(kind, 8, 8), torch.empty(10, 8, 6, 6)
        x_BCTHW = x_TCHW.transpose(0, 1)[None]
    out_BCTHW = layer(x_BCTHW)

    assert count(lambda: conv3d(layer, x_BCTHW)).peak == out_BCTHW.nbytes * (2 if kind.startswith("3x3x3") else 1)


@torch.inference_mode()
@pytest.mark.parametrize("frames", [3, 4, 7])
@pytest.mark.parametrize("by_frames", [False, True], ids=["as on a CPU", "as on a GPU"])
def test_frames_need_not_lie_together(frames: int, by_frames: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conv3d_module, "_by_frames", lambda _: by_frames)
    layer, x_BCTHW = build("3x3x3 padded in space"), noise(2, 24, frames, 4, 5)

    def apart(layer: nn.Conv3d, x_BCTHW: Tensor) -> Tensor:
        return bind_conv3d_of_frames(layer, x_BCTHW)([frame.clone() for frame in x_BCTHW.split(1, dim=2)])

    assert_equal_but_for_rounding(layer, apart, nn.Conv3d.__call__, x_BCTHW)
    layer.register_forward_hook(lambda _module, _inputs, out: out + 1)
    assert_equal_but_for_rounding(layer, apart, nn.Conv3d.__call__, x_BCTHW)
