"""fp8 weights (e4m3, arXiv:2209.05433), approximate: half the memory, and faster matrix products on new GPUs.

Each output channel has a scale, a power of two, so that scaling adds no rounding. Small, sensitive layers keep their
dtype: the first and last layers, norms, and embeddings of timesteps and frame numbers.
Shapes: O output channels.
"""

from __future__ import annotations

import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ExVideoError
from .effective_weights import Weights
from .out_of_memory import explained

_FORMAT = torch.float8_e4m3fn
_LARGEST = torch.finfo(_FORMAT).max  # 448
_MULTIPLE = 16  # of both sides of a matrix, for fp8 products


class _In8Bits:
    """Mixin of layers with fp8 weights."""

    weight: Tensor
    bias: Any  # Tensor or None; the layers declare it in different ways
    scale: Tensor  # [O, 1, ...]

    def effective_weights(self, x: Tensor) -> Weights | None:
        """Weight and bias in the dtype of x; see `nn.effective_weights`."""
        return self.spread(x), self.bias

    def spread(self, x: Tensor) -> Tensor:
        """The weight in the dtype of x."""
        return self.weight.to(x.dtype) * self.scale.to(x.dtype)


class _Linear(nn.Linear, _In8Bits):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  the parent's name
        return F.linear(input, self.spread(input), self.bias)


class _Conv2d(nn.Conv2d, _In8Bits):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return self._conv_forward(input, self.spread(input), self.bias)


class _Conv3d(nn.Conv3d, _In8Bits):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return self._conv_forward(input, self.spread(input), self.bias)


class _MultipliedLinear(_Linear):
    """Linear layer that also rounds its input to fp8, with a scale for each row."""

    def effective_weights(self, x: Tensor) -> None:
        return None  # it must be called: rounding the input is part of it

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        rows = input.reshape(-1, input.shape[-1]).contiguous()  # one frame's tokens are a view with channels apart
        scale = (rows.abs().amax(dim=1, keepdim=True).float() / _LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
        rounded = (rows / scale.to(rows.dtype)).clamp(-_LARGEST, _LARGEST).to(_FORMAT)
        # kernels with a scale for each row return bfloat16
        out = torch._scaled_mm(rounded, self.weight.t(), scale, self.scale.float().t(), out_dtype=torch.bfloat16)
        out = out.to(input.dtype)
        return (out if self.bias is None else out + self.bias).view(*input.shape[:-1], -1)


_STORED: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: _Linear, nn.Conv2d: _Conv2d, nn.Conv3d: _Conv3d}


@explained("rounding the weights to fp8", "Load with stream=True (--stream).")
def store_in_fp8(network: nn.Module) -> None:
    """Round the weights of large layers to 8 bits, in place; each is converted back when it is used.

    A network's `fp8_keep` matches the names of layers that keep their dtype. Call this after LoRAs are merged and the
    network has its dtype: both need the original weights.
    """
    keep: re.Pattern[str] = getattr(network, "fp8_keep", re.compile(r"(?!)"))  # which matches nothing
    for name, layer in network.named_modules():
        if type(layer) in _STORED and not keep.search(f"{name}."):
            _store(layer)


def multiply_in_fp8(network: nn.Module) -> None:
    """Round weights as `store_in_fp8`, and multiply in fp8 in linear layers: faster, and less exact.

    ExVideoError if the GPU has no fp8 products.
    """
    check_products(next(network.parameters()).device)
    store_in_fp8(network)
    for layer in network.modules():
        if type(layer) is _Linear and not any(side % _MULTIPLE for side in layer.weight.shape):
            layer.__class__ = _MultipliedLinear


FP8 = {"weights": store_in_fp8, "matmul": multiply_in_fp8}


def check_products(device: torch.device) -> None:
    """Raise ExVideoError if the device cannot multiply in fp8, as one small product shows."""
    side = _MULTIPLE
    try:
        one, scale = torch.zeros(side, side, device=device).to(_FORMAT), torch.ones(side, 1, device=device)
        torch._scaled_mm(one, one.t(), scale, scale.t(), out_dtype=torch.bfloat16)
    except (RuntimeError, NotImplementedError, ValueError, TypeError) as error:
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        reason = str(error).partition("\n")[0][:200]
        raise ExVideoError(
            f"{name} with PyTorch {torch.__version__} cannot multiply in fp8 ({reason}). It takes GeForce 40, H100 or "
            f"newer, and PyTorch 2.7 on GeForce. Choose fp8 'weights', which saves the same memory."
        ) from error


def _store(layer: nn.Module) -> None:
    weight = layer.weight.detach()  # type: ignore[operator]  # a tensor, of the types in _STORED
    peak = weight.abs().flatten(1).amax(dim=1).float()
    scale = torch.exp2((peak / _LARGEST).log2().ceil())
    scale = torch.where(peak > 0, scale, torch.ones_like(scale)).view(-1, *[1] * (weight.ndim - 1))
    rounded = (weight.float() / scale).to(_FORMAT)
    layer.__class__ = _STORED[type(layer)]  # nothing below allocates, so no layer is left half converted
    layer.weight = nn.Parameter(rounded, requires_grad=False)
    layer.register_buffer("scale", scale)
