"""Which kernel PyTorch takes for attention on CUDA, and what that one allocates.

By the rules of aten/src/ATen/native/transformers/cuda/sdp_utils.cpp and attention.cpp of PyTorch 2.6 and newer.
Shapes: B batch, N heads, L tokens, D channels of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

if TYPE_CHECKING:
    from .device import EmulatedCuda

_16_BITS = (torch.float16, torch.bfloat16)
_MOST_ROWS = 65535  # of a grid's second and third axis
# PyTorch's numbers of the kernels (SDPBackend), by which it keeps their order
_MATH, _FLASH, _EFFICIENT, _CUDNN = 0, 1, 2, 3


class Attention:
    """`F.scaled_dot_product_attention` for tensors of emulated cards; others go to PyTorch's own."""

    def __init__(self, device: EmulatedCuda, plain: Callable[..., Tensor]) -> None:
        self.device, self.plain = device, plain

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if not isinstance(query, FakeTensor) or query.fake_device.type != "cuda":
            return self.plain(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
        if not query.device == key.device == value.device or not query.dtype == key.dtype == value.dtype:
            raise RuntimeError("Expected query, key, and value to have the same device and dtype")
        kernel = next(self._usable(query, key, value, attn_mask), None)
        if kernel is None:
            raise RuntimeError("No available kernel. Aborting execution.")
        if kernel == _MATH:
            return self._by_math(query, key, value, attn_mask)
        return self._fused(kernel, query, key, value)

    def _usable(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Iterator[int]:
        """Kernels that support the tensors, in PyTorch's order."""
        cuda, capability, dim = torch.backends.cuda, self.device.card.capability, q.shape[-1]
        is_rocm = self.device.card.is_rocm
        is_fusible = q.ndim == k.ndim == v.ndim == 4 and q.stride(-1) == k.stride(-1) == v.stride(-1) == 1
        is_half = q.dtype in _16_BITS
        is_new = is_rocm or capability >= (8, 0)
        in_efficient = q.dtype in (torch.float16, torch.float32) or (q.dtype == torch.bfloat16 and is_new)
        usable = {
            _MATH: cuda.math_sdp_enabled(),
            _FLASH: cuda.flash_sdp_enabled() and is_fusible and is_half and is_new and mask is None and dim <= 256,
            _EFFICIENT: cuda.mem_efficient_sdp_enabled()
            and is_fusible
            and in_efficient
            and dim % (8 if is_half else 4) == 0,
            _CUDNN: cuda.cudnn_sdp_enabled()
            and is_fusible
            and is_half
            and is_new
            and not is_rocm
            and dim <= 128
            and dim % 8 == 0,
        }
        return (kernel for kernel in torch._C._get_sdp_priority_order() if usable.get(kernel))

    def _fused(self, kernel: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        device, (batch, heads, length, _) = self.device, q.shape
        if kernel == _CUDNN and device.cudnn_refuses(q):
            raise RuntimeError("cuDNN Frontend error: [cudnn_frontend] Error: No execution plans support the graph.")
        if (batch if kernel == _EFFICIENT else max(batch, heads)) > _MOST_ROWS:
            raise RuntimeError("CUDA error: invalid configuration argument")
        device.costs.attention[{_FLASH: "flash", _EFFICIENT: "efficient", _CUDNN: "cudnn"}[kernel]] += 1
        # the logarithm of each row's sum, which FlashAttention always returns
        sums = q.new_empty(batch, heads, length, dtype=torch.float32) if kernel == _FLASH else None
        out_BNLD = q.new_empty(batch, length, heads, v.shape[-1]).transpose(1, 2)
        given = [each for each in (q, k, v) if isinstance(each, FakeTensor)]
        assert isinstance(out_BNLD, FakeTensor)
        device.launched("attention", q.device, given, [out_BNLD], set())
        del sums
        return out_BNLD

    def _by_math(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """The scores in float32, and as many again for each temporary that is alive beside them."""
        costs = self.device.costs
        wide = [x.float() for x in (q, k, v)] if q.dtype in _16_BITS else [q, k, v]
        wide = [x.contiguous() for x in wide]
        costs.attention["math"] += 1
        costs.scores = max(costs.scores, q.shape[:-1].numel() * k.shape[-2] * wide[0].itemsize)
        root = q.shape[-1] ** -0.25  # of the scale, on either side
        scores = (wide[0] * root) @ (wide[1].transpose(-2, -1) * root)
        if mask is not None:
            scores = scores + mask
        # its softmax gives zeros where all of a row is masked; scores, softmax, mask and result live at once
        spread = torch.softmax(scores, -1)
        is_masked = scores == float("-inf")
        scores = torch.where(is_masked.all(-1, keepdim=True), 0.0, spread)
        del spread, is_masked
        return (scores @ wide[2]).to(q.dtype)
