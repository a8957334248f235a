"""Upsampling and convolution in one: the same values as one after the other, without the larger map."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from narrow_svd import fill, noise
from rounding import assert_equal_but_for_rounding, error
from torch import Tensor, nn

from exvideo_core.estimate.counting import count
from exvideo_core.nn import upsample
from exvideo_core.nn.upsample import doubled_conv, upsampled_conv


class Called(nn.Conv2d):
    """Remembers the sizes it was called with."""

    def __init__(self, channels: int, out_channels: int, bias: bool = True) -> None:
        super().__init__(channels, out_channels, kernel_size=3, padding=1, bias=bias)
        fill(self)
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, x_BCHW: Tensor) -> Tensor:
        self.sizes.append(tuple(x_BCHW.shape[2:]))
        return super().forward(x_BCHW)


@pytest.fixture(autouse=True)
def any_size_is_worthwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upsample, "_WORTHWHILE", 0)


@pytest.fixture
def grown(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Sizes of the larger maps that were made."""
    sizes: list[tuple[int, ...]] = []

    def interpolate(*args: object, **settings: object) -> Tensor:
        result = F.interpolate(*args, **settings)
        sizes.append(tuple(result.shape[2:]))
        return result

    watched = type("", (), {"interpolate": staticmethod(interpolate), "conv2d": staticmethod(F.conv2d)})
    monkeypatch.setattr(upsample, "F", watched)
    return sizes


def plain(conv: nn.Conv2d, x_BCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """In float64."""
    weight, bias = conv.weight.double(), None if conv.bias is None else conv.bias.double()
    return F.conv2d(F.interpolate(x_BCHW.double(), size), weight, bias, padding=1)


def to(size: tuple[int, int] | None) -> Callable[[nn.Conv2d, Tensor], Tensor]:
    return lambda conv, x_BCHW: upsampled_conv(conv, x_BCHW, size)


def upsampled_first(size: tuple[int, int]) -> Callable[[nn.Conv2d, Tensor], Tensor]:
    return lambda conv, x_BCHW: conv(F.interpolate(x_BCHW, size))


@torch.inference_mode()
@pytest.mark.parametrize("shape", [(1, 8, 1, 1), (2, 8, 3, 5), (3, 8, 8, 4), (1, 32, 16, 16)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_doubling_equals_upsampling_and_convolution(
    shape: tuple[int, ...], bias: bool, grown: list[tuple[int, ...]]
) -> None:
    conv, x_BCHW = Called(shape[1], 6, bias), noise(*shape)
    size = 2 * shape[2], 2 * shape[3]

    for given in (None, size):
        assert_equal_but_for_rounding(conv, to(given), upsampled_first(size), x_BCHW)
    assert not grown


@torch.inference_mode()
@pytest.mark.parametrize("size", [(5, 9), (6, 9), (5, 10), (7, 7)], ids=str)
def test_any_other_size_is_upsampled_first(size: tuple[int, int], grown: list[tuple[int, ...]]) -> None:
    conv, x_BCHW = Called(8, 8), noise(2, 8, 3, 5)

    assert_equal_but_for_rounding(conv, to(size), upsampled_first(size), x_BCHW)
    assert grown == [size, size]  # in float32 and in float64


@torch.inference_mode()
def test_a_layer_with_hooks_is_called_itself() -> None:
    conv, x_BCHW = Called(8, 8), noise(1, 8, 3, 5)
    conv.register_forward_hook(lambda _module, _inputs, out: out + 1)

    torch.testing.assert_close(upsampled_conv(conv, x_BCHW), plain(conv, x_BCHW, (6, 10)).float() + 1)
    assert conv.sizes == [(6, 10)]


def test_with_gradients_the_layer_is_called_itself() -> None:
    conv, x_BCHW = Called(8, 8), noise(1, 8, 3, 5).requires_grad_()
    upsampled_conv(conv, x_BCHW).square().sum().backward()

    assert conv.sizes == [(6, 10)]
    for tensor in (x_BCHW, conv.weight, conv.bias):
        assert tensor.grad is not None
        assert bool(tensor.grad.any())


@torch.inference_mode()
def test_small_maps_are_upsampled_first(monkeypatch: pytest.MonkeyPatch, grown: list[tuple[int, ...]]) -> None:
    monkeypatch.setattr(upsample, "_WORTHWHILE", 31)
    conv = Called(8, 8)
    upsampled_conv(conv, noise(2, 8, 3, 5))
    upsampled_conv(conv, noise(2, 8, 4, 4))

    assert grown == [(6, 10)]


@torch.inference_mode()
def test_changed_weights_are_seen() -> None:
    conv, x_BCHW = Called(8, 8), noise(1, 8, 3, 5)
    upsampled_conv(conv, x_BCHW)
    conv.weight.mul_(2)

    assert_equal_but_for_rounding(conv, upsampled_conv, upsampled_first((6, 10)), x_BCHW)


@torch.inference_mode()
def test_one_function_serves_all_pieces() -> None:
    conv, x_BCHW = Called(8, 8), noise(5, 8, 3, 5)
    apply = doubled_conv(conv, x_BCHW[:1])

    torch.testing.assert_close(torch.cat([apply(x_BCHW[:2]), apply(x_BCHW[2:])]), upsampled_conv(conv, x_BCHW))


@torch.inference_mode()
def test_the_layout_stays() -> None:
    conv, x_BCHW = Called(8, 8), noise(2, 8, 3, 5)
    out_BCHW = upsampled_conv(conv, x_BCHW.to(memory_format=torch.channels_last))

    assert out_BCHW.is_contiguous(memory_format=torch.channels_last)
    assert upsampled_conv(conv, x_BCHW).is_contiguous()
    torch.testing.assert_close(out_BCHW, upsampled_conv(conv, x_BCHW))


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rounds_the_added_taps_once(dtype: torch.dtype) -> None:
    conv, x_BCHW = Called(64, 64).to(dtype), noise(1, 64, 8, 8).to(dtype)
    exact = plain(conv, x_BCHW, (16, 16))

    # the plain result rounds less: its weights are given, not sums
    assert error(upsampled_conv(conv, x_BCHW), exact) <= 2 * error(conv(F.interpolate(x_BCHW, (16, 16))), exact)


@torch.inference_mode()
def test_the_larger_map_is_never_made() -> None:
    with torch.device("meta"):
        conv, x_BCHW = Called(64, 64), torch.empty(1, 64, 100, 100)

    assert count(lambda: upsampled_conv(conv, x_BCHW)).peak <= 5.3 * x_BCHW.nbytes  # the result and a quarter of it
