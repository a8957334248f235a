"""Layers as functions for many pieces do what the layers do."""

from __future__ import annotations

import pytest
import torch
from narrow_svd import noise
from torch import nn

from exvideo_core.nn.linear import bind, outputs, product

X = noise(2, 5, 1024)


def random_linear(width: int, *, bias: bool = True) -> nn.Linear:
    layer = nn.Linear(1024, width, bias=bias)
    layer.weight.data = noise(width, 1024, seed=1)
    return layer


@torch.no_grad()
@pytest.mark.parametrize("width", [3, 1024])  # by PyTorch's usual product, and by oneDNN's
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_the_layers(width: int, bias: bool, dtype: torch.dtype) -> None:
    layer = random_linear(width, bias=bias).to(dtype)
    expected = layer(X.to(dtype))
    result = bind(layer, X.to(dtype))(X.to(dtype))

    assert result.dtype == dtype
    torch.testing.assert_close(result, expected, rtol=1e-5 if dtype == torch.float32 else 2e-2, atol=1e-3)


@torch.no_grad()
def test_products_of_any_layout_are_the_layers() -> None:
    layer = random_linear(1024)
    x = X.transpose(0, 1)[::2]

    torch.testing.assert_close(bind(layer, x)(x), layer(x), rtol=1e-5, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("bias", [True, False])
def test_some_outputs_are_those_of_all(bias: bool) -> None:
    layer = random_linear(2048, bias=bias)
    span = slice(100, 1300)

    some = product(outputs((layer.weight, layer.bias), span), X)

    torch.testing.assert_close(some, layer(X)[..., span], rtol=1e-5, atol=1e-3)


@torch.no_grad()
def test_norms_are_the_layers() -> None:
    norm = nn.LayerNorm(1024, eps=0.5)
    norm.weight.data, norm.bias.data = noise(1024, seed=2), noise(1024, seed=3)

    assert torch.equal(bind(norm, X)(X), norm(X))


def test_a_layer_with_more_than_its_formula_is_called() -> None:
    layer = random_linear(8)
    layer.register_forward_hook(lambda _layer, _inputs, output: output + 1)

    with torch.no_grad():
        assert bind(layer, X) is layer
    assert bind(random_linear(8), X)(X).requires_grad  # and where gradients are wanted
