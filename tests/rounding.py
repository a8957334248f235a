"""Tolerances that hold on any CPU: results in float32 measured against the same in float64.

Libraries choose kernels by CPU and by shape, and each adds up in its own order. So two ways to compute one result may
differ in float32 on one machine and not on another. But both are about as far from float64, where they must agree: a
mistake shows there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

from torch import Tensor, nn

LEAST = 1e-6  # of the largest value: eight units in float32's last place
FACTOR = 3  # between the errors of two orders of the sums; under every setting of cpu_settings.py it was below 2
IN_FLOAT64 = 1e-12


def error(actual: Tensor, expected: Tensor) -> float:
    """Largest difference, as a part of the largest value."""
    return float((actual - expected).abs().max() / expected.abs().max())


def tolerance(result: Tensor, exact: Tensor) -> float:
    """How far from `exact`, which is float64's, another order of the sums than that of `result` may be in float32."""
    return max(LEAST, FACTOR * error(result, exact))


def assert_equal_but_for_rounding(
    network: nn.Module, one: Callable[..., Tensor], other: Callable[..., Tensor], *given: Tensor
) -> None:
    """Both ways to call `network`, `one(network, *given)` and `other(network, *given)`, compute the same."""
    double = copy.deepcopy(network).double()
    exactly = [tensor.double() if tensor.is_floating_point() else tensor for tensor in given]
    expected, exact = other(network, *given), other(double, *exactly)

    assert error(one(double, *exactly), exact) <= IN_FLOAT64
    assert error(one(network, *given), exact) <= tolerance(expected, exact)
