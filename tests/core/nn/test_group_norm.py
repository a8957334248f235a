"""Group norm whose statistics are gathered piece by piece, against torch's own of the whole."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from narrow_svd import fill, noise
from torch import Tensor, nn

from exvideo_core.nn.chunks import spans
from exvideo_core.nn.effective_weights import effective_weights
from exvideo_core.nn.group_norm import affine, norm_silu, scaled_silu


def build(channels: int = 32, groups: int = 8) -> nn.GroupNorm:
    norm = nn.GroupNorm(groups, channels, eps=1e-5)
    fill(norm)
    return norm


def error(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).abs().max() / expected.abs().max())


def scale(norm: nn.GroupNorm, pieces: list[Tensor]) -> tuple[Tensor, Tensor]:
    weights = effective_weights(norm, pieces[0])
    assert weights is not None
    factor_C, summand_C = affine(norm, weights, pieces)
    return factor_C[:, None, None], summand_C[:, None, None]


@torch.inference_mode()
@pytest.mark.parametrize("seed", range(8))
def test_pieces_of_any_size_give_the_norm_of_the_whole(seed: int) -> None:
    chosen = random.Random(seed)
    x_1CHW = noise(1, 32, chosen.randint(2, 40), chosen.randint(1, 20), seed=seed) * 3 + 2
    pieces = [x_1CHW[:, :, span] for span in spans(x_1CHW.shape[2], chosen.randint(1, 12))]
    norm = build()
    factor, summand = scale(norm, pieces)

    assert error(x_1CHW * factor + summand, norm(x_1CHW)) <= 1e-6


@torch.inference_mode()
def test_pieces_may_be_of_different_sizes_and_layouts() -> None:
    x_1CHW, norm = noise(1, 32, 20, 7), build()
    pieces = [
        x_1CHW[:, :, :1],
        x_1CHW[:, :, 1:12].to(memory_format=torch.channels_last),
        x_1CHW[:, :, 12:].unflatten(2, (2, -1)),
    ]
    factor, summand = scale(norm, pieces)

    assert error(x_1CHW * factor + summand, norm(x_1CHW)) <= 1e-6


@torch.inference_mode()
@pytest.mark.parametrize("mean", [10.0, 100.0])
def test_a_large_mean_costs_no_more_digits_than_torch_s_norm(mean: float) -> None:
    x_1CHW, norm = noise(1, 32, 64, 64) + mean, build()
    exact = F.group_norm(x_1CHW.double(), 8, norm.weight.double(), norm.bias.double(), norm.eps)
    factor, summand = scale(norm, [x_1CHW[:, :, span] for span in spans(64, 5)])

    assert error(x_1CHW * factor + summand, exact) <= max(2 * error(norm(x_1CHW), exact), 1e-7 * mean)


@torch.inference_mode()
def test_without_weights_it_only_normalises() -> None:
    norm, x_1CHW = nn.GroupNorm(8, 32), noise(1, 32, 9, 5)
    factor_C, summand_C = affine(norm, (torch.ones(32), None), [x_1CHW])

    assert error(x_1CHW * factor_C[:, None, None] + summand_C[:, None, None], norm(x_1CHW)) <= 1e-6


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_scale_and_silu_keep_the_type_and_round_at_the_end(dtype: torch.dtype) -> None:
    x, factor, summand = noise(2, 32, 9, 5).to(dtype), noise(32, 1, 1, seed=1), noise(32, 1, 1, seed=2)
    expected = F.silu(x.double() * factor + summand)
    out = scaled_silu(x, factor, summand)

    assert out.dtype == dtype
    assert error(out, expected) <= 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_norm_and_silu_in_one(layout: torch.memory_format) -> None:
    norm, x_BCHW = build(), noise(2, 32, 9, 5).to(memory_format=layout)
    expected = F.silu(norm(x_BCHW))

    torch.testing.assert_close(norm_silu(norm, x_BCHW), expected)
    with torch.inference_mode():
        torch.testing.assert_close(norm_silu(norm, x_BCHW), expected)


def test_norm_and_silu_have_gradients() -> None:
    norm, x_BCHW = build(), noise(2, 32, 9, 5).requires_grad_()
    norm_silu(norm, x_BCHW).square().sum().backward()

    for tensor in (x_BCHW, norm.weight, norm.bias):
        assert tensor.grad is not None
        assert bool(tensor.grad.any())
