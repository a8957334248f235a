"""What the comparison of two ways to one result lets pass, and what it does not."""

import pytest
import torch
from narrow_svd import noise
from rounding import assert_equal_but_for_rounding
from torch import nn

LAYER = nn.Linear(256, 64)
X = noise(16, 256)


def by_halves(layer, x):
    """The sums in another order."""
    parts = zip(x.chunk(2, dim=1), layer.weight.chunk(2, dim=1), strict=True)
    return sum(part @ weight.T for part, weight in parts) + layer.bias


def slightly_wrong(layer, x):
    """By less than float32 can tell."""
    return layer(x) * (1 + 1e-9)


def rounded_too_much(layer, x):
    """In float32 alone."""
    return layer(x.bfloat16().float() if x.dtype == torch.float32 else x)


@torch.no_grad()
def test_another_order_of_the_sums_passes():
    assert_equal_but_for_rounding(LAYER, by_halves, nn.Linear.__call__, X)


@torch.no_grad()
@pytest.mark.parametrize("way", [slightly_wrong, rounded_too_much])
def test_mistakes_and_lost_digits_do_not(way):
    with pytest.raises(AssertionError):
        assert_equal_but_for_rounding(LAYER, way, nn.Linear.__call__, X)
