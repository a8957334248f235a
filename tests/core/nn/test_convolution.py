"""Convolutions on the CPU by the way that moves the weights least give what the layer gives."""

from __future__ import annotations

import pytest
import torch
from narrow_svd import noise
from rounding import assert_equal_but_for_rounding
from torch import Tensor, nn

from exvideo_core.nn.convolution import convolved

LAYERS = {
    "2d": (lambda: nn.Conv2d(24, 96, 3, padding=1), (2, 24, 2, 3)),
    "strided": (lambda: nn.Conv2d(24, 96, 3, stride=2, padding=1), (2, 24, 5, 4)),
    "unpadded": (lambda: nn.Conv2d(24, 96, 3, stride=2), (2, 24, 5, 4)),
    "without bias": (lambda: nn.Conv2d(24, 96, 3, padding=1, bias=False), (2, 24, 2, 3)),
    "1x1": (lambda: nn.Conv2d(24, 32, 1), (2, 24, 9, 5)),
    "3x3x3": (lambda: nn.Conv3d(24, 96, 3), (1, 24, 4, 4, 5)),
    "3x1x1": (lambda: nn.Conv3d(24, 96, (3, 1, 1), padding=(1, 0, 0)), (1, 24, 3, 2, 2)),
    "larger than the weights": (lambda: nn.Conv2d(8, 8, 3, padding=1), (2, 8, 32, 32)),
}


@pytest.fixture(params=list(LAYERS))
def layer_and_input(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
    build, shape = LAYERS[request.param]
    torch.manual_seed(0)
    return build(), noise(*shape)


@torch.inference_mode()
@pytest.mark.parametrize("is_last", [False, True], ids=["channels first", "channels last"])
def test_it_is_the_layer_s_result(layer_and_input: tuple[nn.Module, Tensor], is_last: bool) -> None:
    layer, x = layer_and_input
    if is_last:
        x = x.contiguous(memory_format=torch.channels_last if x.ndim == 4 else torch.channels_last_3d)

    assert_equal_but_for_rounding(layer, convolved, nn.Module.__call__, x)


@torch.inference_mode()
def test_few_positions_become_one_product(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = nn.Conv2d(24, 96, 3, padding=1), noise(2, 24, 2, 3)
    expected = layer(x)
    monkeypatch.setattr(layer, "_conv_forward", lambda *_: pytest.fail("the convolution was called"))

    torch.testing.assert_close(convolved(layer, x), expected)


@torch.inference_mode()
def test_a_layer_with_something_beside_it_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = nn.Conv2d(24, 96, 3, padding=1), noise(2, 24, 2, 3)
    layer.register_forward_hook(lambda _layer, _inputs, output: output + 1)

    assert torch.equal(convolved(layer, x), layer(x))


def test_gradients_reach_the_weights() -> None:
    layer = nn.Conv2d(24, 96, 3, padding=1)
    convolved(layer, noise(2, 24, 2, 3)).sum().backward()

    assert layer.weight.grad is not None
