"""Attention backends by name, and `auto`, which tries the candidates for a device once and logs its choice.

The networks have 64 channels per head, where attention kernels differ most. On Hopper, FlashAttention 3 and cuDNN are
about 1.5 times as fast as FlashAttention 2 (figures of arXiv:2407.08608); on Ampere and Ada cuDNN is no faster or
slower, so PyTorch's own order stays. Approximate kernels are never candidates.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Container, Mapping
from functools import cache, partial
from importlib.util import find_spec

import torch
from torch import Tensor

from ...errors import ExVideoError
from .backends import PACKAGES, Attention, by_kernels, cudnn, efficient, flash, flash3, sage, sdpa, sliced, xformers

log = logging.getLogger(__name__)

_TOKENS = 80  # more than a kernel's tile, and no multiple of one
# Largest rounding error for unit noise; a wrong kernel is off by a good part of 1.
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 5e-2}
# How a candidate is tried if PyTorch would silently fall back to another kernel.
_TRIALS: Mapping[str, Attention] = {
    "cudnn": partial(by_kernels, ["CUDNN_ATTENTION"]),
    "sdpa": partial(by_kernels, ["FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION"]),
}
# Faster than FlashAttention 2, by the major compute capability: Hopper is 9, Blackwell 10 and 11 in data centres and
# 12 in consumer GPUs.
_QUICKER = {9: ("flash3", "cudnn"), 10: ("cudnn",), 11: ("cudnn",)}


def auto(q_BNLD: Tensor, k_BNLD: Tensor, v_BNLD: Tensor) -> Tensor:
    """The best exact backend for the device and dtype, chosen once."""
    attend = BACKENDS[choose(q_BNLD.device, q_BNLD.dtype, q_BNLD.shape[-1])]
    return attend(q_BNLD, k_BNLD, v_BNLD)


BACKENDS: dict[str, Attention] = {
    "sdpa": sdpa,
    "auto": auto,
    "cudnn": cudnn,
    "flash": flash,
    "flash3": flash3,
    "efficient": efficient,
    "xformers": xformers,
    "sage": sage,
    "sliced": sliced,
}


@cache
def choose(device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """Name of the first candidate that works; logs it, and why those before do not."""
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)
    installed = [name for name, (module, _, _) in PACKAGES.items() if find_spec(module.partition(".")[0])]
    is_rocm = torch.version.hip is not None
    *tried, last = candidates(device.type, dtype, capability, is_rocm=is_rocm, installed=installed)
    for name in tried:
        reason = why_not(_TRIALS.get(name, BACKENDS[name]), device, dtype, head_dim)
        if reason is None:
            break
        log.info("attention: %s is not usable here: %s", name, reason)
    else:
        name = last
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    log.info("attention: %s (%s, %s)", name, kind, str(dtype).removeprefix("torch."))
    return name


def candidates(
    device: str,
    dtype: torch.dtype,
    capability: tuple[int, int] = (0, 0),
    *,
    is_rocm: bool = False,
    installed: Container[str] = (),
) -> tuple[str, ...]:
    """Names of backends in the order to try them; the last is always usable.

    `sdpa` is chosen only if PyTorch has a fused kernel for the tensors; `sliced` needs none.

    Args:
        device: PyTorch's device type: cuda (AMD too), mps, cpu.
        capability: of an NVIDIA GPU.
        is_rocm: whether it is AMD's.
        installed: those of the backends in optional packages that are.
    """
    if device in ("cpu", "meta"):
        return ("sdpa",)
    if device == "xpu":
        return ("sdpa", "sliced")  # fused since PyTorch 2.7
    if device != "cuda":
        return ("sliced",)  # on MPS and others PyTorch may keep all scores in memory
    if is_rocm or dtype not in (torch.float16, torch.bfloat16):
        return ("sdpa", "sliced")
    generation, _ = capability
    if generation < 8:
        return ("efficient", "sliced")  # FlashAttention starts with Ampere
    quicker = [name for name in _QUICKER.get(generation, ()) if name not in PACKAGES or name in installed]
    return (*quicker, "sdpa", "sliced")


@torch.inference_mode()
def why_not(attend: Attention, device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """Why a backend cannot be used for such tensors, from a small call; None if it can."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 2, _TOKENS, head_dim, generator=generator).to(device, dtype) for _ in range(3))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one from PyTorch for each unusable kernel
            scores = q.float() @ k.float().transpose(-1, -2) * head_dim**-0.5
            exact = scores.softmax(dim=-1) @ v.float()  # by its definition (arXiv:1706.03762, eq. 1)
            error = float((attend(q, k, v).float() - exact).abs().max())
    except (ExVideoError, ImportError, RuntimeError) as failure:
        return str(failure).partition("\n")[0] or type(failure).__name__
    # not "error > ...": it may be NaN
    return None if error <= _TOLERANCE.get(dtype, 5e-2) else f"it is wrong by {error:g}"
