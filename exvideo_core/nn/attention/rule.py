"""Which backends to try on a device, best first; a function of facts, so that tests need no device.

The networks have 64 channels per head, where attention kernels differ most. On Hopper, FlashAttention 3 and cuDNN are
about 1.5 times as fast as FlashAttention 2 (figures of arXiv:2407.08608); on Ampere and Ada cuDNN is no faster or
slower, so PyTorch's own order stays. Approximate kernels are never among these.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Facts the choice depends on."""

    device: str  # PyTorch's device type: cuda (AMD too), mps, cpu
    dtype: torch.dtype
    capability: tuple[int, int] = (0, 0)  # of an NVIDIA GPU
    is_rocm: bool = False
    packages: frozenset[str] = frozenset()  # importable modules, of those in `backends.PACKAGES`


def candidates(facts: Facts) -> tuple[str, ...]:
    """Names of backends in the order to try them; the last is always usable.

    `sdpa` is chosen only if PyTorch has a fused kernel for the tensors; `sliced` needs none.
    """
    if facts.device in ("cpu", "meta"):
        return ("sdpa",)
    if facts.device != "cuda":
        return ("sliced",)  # on MPS and others PyTorch may keep all scores in memory
    if facts.is_rocm or facts.dtype not in (torch.float16, torch.bfloat16):
        return ("sdpa", "sliced")
    generation, _ = facts.capability
    if generation < 8:
        return ("efficient", "sliced")  # FlashAttention starts with Ampere
    quicker = [name for name in _QUICKER.get(generation, ()) if _NEEDS.get(name, "") in ("", *facts.packages)]
    return (*quicker, "sdpa", "sliced")


# Faster than FlashAttention 2, by the major compute capability: Hopper is 9, Blackwell 10 and 11 in data centres and
# 12 in consumer GPUs.
_QUICKER = {9: ("flash3", "cudnn"), 10: ("cudnn",), 11: ("cudnn",)}
_NEEDS = {"flash3": "flash_attn_interface"}
