"""Attention backends, one function each. All but `sage` are exact.

Shapes: B batch, N heads, L tokens, D channels of a head.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import threading
from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ...errors import ExVideoError
from ..chunks import CHUNK_BYTES, items_within, spans
from ..out_of_memory import is_out_of_memory

log = logging.getLogger(__name__)

# q, k, v and the result are [B, N, L, D]
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]

# Some kernels put batch x heads on one CUDA grid axis of at most 65535; temporal attention has a batch
# of all latent cells (16384 at 1024x1024) times the heads.
_MAX_ROWS = 65535
_SHORT = 1024  # tokens below which quantising costs more than it saves
_MPS_SCORES = 2**31  # bytes of scores at a time; its memory is the main memory, and many small calls are slow

# Backends in optional packages: module, package, how to install it.
PACKAGES = {
    "flash": ("flash_attn", "flash-attn", "pip install 'exvideo[flash]'"),
    "flash3": ("flash_attn_interface", "flash_attn_3", "build the folder hopper of flash-attention's source"),
    "xformers": ("xformers.ops", "xformers", "pip install xformers"),
    "sage": ("sageattention", "sageattention", "pip install sageattention"),
}


def package_of(backend: str) -> Any:  # noqa: ANN401  optional packages have no types
    """Import the package of a backend; ExVideoError if it is missing."""
    module, package, how = PACKAGES[backend]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ExVideoError(
            f"attention {backend!r} was chosen, but the package {package} is not installed ({error}). "
            f"Install it ({how}) or choose attention 'sdpa'."
        ) from error


def within_the_grid(attend: Attention) -> Attention:
    """Decorator: chunk the batch where kernels reach their grid limit."""

    @wraps(attend)
    def cut(q_BNLD: Tensor, k_BNLD: Tensor, v_BNLD: Tensor) -> Tensor:
        size = max(1, _MAX_ROWS // q_BNLD.shape[1])
        if len(q_BNLD) <= size or not _has_grid(q_BNLD):
            return attend(q_BNLD, k_BNLD, v_BNLD)
        out_BNLD = _empty_result(q_BNLD, v_BNLD)
        for part in spans(len(q_BNLD), size):
            out_BNLD[part] = attend(q_BNLD[part], k_BNLD[part], v_BNLD[part])
        return out_BNLD

    return cut


@within_the_grid
def sdpa(q_BNLD: Tensor, k_BNLD: Tensor, v_BNLD: Tensor) -> Tensor:
    """PyTorch's scaled dot product attention, in PyTorch's order of kernels: FlashAttention 2 if possible."""
    return F.scaled_dot_product_attention(q_BNLD, k_BNLD, v_BNLD)


@within_the_grid
def sliced(q_BNLD: Tensor, k_BNLD: Tensor, v_BNLD: Tensor) -> Tensor:
    """PyTorch's attention for chunks of queries, for devices whose kernel keeps all scores in memory."""
    queries, bytes_per_query = q_BNLD.shape[2], 4 * k_BNLD.shape[:3].numel()
    size = items_within(_MPS_SCORES if q_BNLD.device.type == "mps" else CHUNK_BYTES, bytes_per_query)
    if queries <= size:
        return F.scaled_dot_product_attention(q_BNLD, k_BNLD, v_BNLD)
    out_BNLD = _empty_result(q_BNLD, v_BNLD)
    for part in spans(queries, size):
        out_BNLD[:, :, part] = F.scaled_dot_product_attention(q_BNLD[:, :, part], k_BNLD, v_BNLD)
    return out_BNLD


@within_the_grid
def cudnn(q_BNLD: Tensor, k_BNLD: Tensor, v_BNLD: Tensor) -> Tensor:
    """PyTorch's attention with cuDNN's kernel first; shapes it does not support go to the others."""
    _check("cudnn", q_BNLD)
    if not _CAN_ORDER:
        raise ExVideoError(f"attention 'cudnn' needs PyTorch 2.6 or newer, not {torch.__version__}. {_INSTEAD}")
    try:
        return by_kernels(["CUDNN_ATTENTION", *_OTHERS], q_BNLD, k_BNLD, v_BNLD)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        _log_no_plan(tuple(q_BNLD.shape), str(error).partition("\n")[0])
    return by_kernels(_OTHERS, q_BNLD, k_BNLD, v_BNLD)


@cache
def _log_no_plan(shape: tuple[int, ...], reason: str) -> None:
    """Cached, so that a shape is logged once and not at every layer and step."""
    log.info("attention: cuDNN has no plan for %s (%s); another kernel computes it", shape, reason)


@within_the_grid
def efficient(q_BNLD: Tensor, k_BNLD: Tensor, v_BNLD: Tensor) -> Tensor:
    """PyTorch's attention with the memory-efficient kernel, which runs on older GPUs and in float32, too."""
    if not q_BNLD.is_cuda:
        raise ExVideoError(f"attention 'efficient' runs only on a GPU, not on {q_BNLD.device.type}. {_INSTEAD}")
    return by_kernels(["EFFICIENT_ATTENTION"], q_BNLD, k_BNLD, v_BNLD)


def _from_package(backend: str, function: str) -> Attention:
    """Attention by a package's function of [B, L, N, D] tensors; if it returns several, the first is the result."""

    def attend(q_BNLD: Tensor, k_BNLD: Tensor, v_BNLD: Tensor) -> Tensor:
        package = package_of(backend)
        _check(backend, q_BNLD)
        result = getattr(package, function)(*(x_BNLD.transpose(1, 2) for x_BNLD in (q_BNLD, k_BNLD, v_BNLD)))
        out_BLND: Tensor = result[0] if isinstance(result, tuple) else result
        return out_BLND.transpose(1, 2)

    attend.__qualname__ = backend  # by which fingerprints of runs tell backends apart
    return within_the_grid(attend)


flash = _from_package("flash", "flash_attn_func")  # FlashAttention 2, also a kernel of PyTorch's own `sdpa`
flash3 = _from_package("flash3", "flash_attn_func")  # FlashAttention 3, for Hopper; from its source, folder `hopper`
xformers = _from_package("xformers", "memory_efficient_attention")  # xFormers' choice among its kernels


@within_the_grid
def sage(q_BNLD: Tensor, k_BNLD: Tensor, v_BNLD: Tensor) -> Tensor:
    """SageAttention (arXiv:2411.10958): queries and keys in 8 bits or fewer. Faster, approximate, without gradients.

    Short sequences, such as the frames of a cell, go to `sdpa`.
    """
    package = package_of("sage")
    _check("sage", q_BNLD)
    if torch.is_grad_enabled() and q_BNLD.requires_grad:
        raise ExVideoError(f"attention 'sage' has no gradients, so nothing can be trained with it. {_INSTEAD}")
    if k_BNLD.shape[2] < _SHORT:
        return sdpa(q_BNLD, k_BNLD, v_BNLD)
    return package.sageattn(q_BNLD, k_BNLD, v_BNLD, tensor_layout="HND")


def by_kernels(names: list[str], q_BNLD: Tensor, k_BNLD: Tensor, v_BNLD: Tensor) -> Tensor:
    """PyTorch's attention by the first of these kernels that supports the tensors; RuntimeError if none does."""
    kernels = [getattr(SDPBackend, name) for name in names]
    ordered = {"set_priority": True} if _CAN_ORDER else {}
    with _kernels_lock, sdpa_kernel(kernels, **ordered):
        return F.scaled_dot_product_attention(q_BNLD, k_BNLD, v_BNLD)


_INSTEAD = "Choose attention 'sdpa', which runs everywhere."
_OTHERS = ["FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH"]
_CAN_ORDER = "set_priority" in inspect.signature(sdpa_kernel).parameters
_kernels_lock = threading.Lock()  # sdpa_kernel sets globals, and each GPU may run a network in its own thread


def _has_grid(x: Tensor) -> bool:
    return x.device.type not in ("cpu", "meta")


def _empty_result(q_BNLD: Tensor, v_BNLD: Tensor) -> Tensor:
    """An empty result in the kernels' memory layout, in which merging heads copies nothing."""
    batch, heads, queries, _ = q_BNLD.shape
    return q_BNLD.new_empty(batch, queries, heads, v_BNLD.shape[-1]).transpose(1, 2)


def _check(backend: str, q_BNLD: Tensor) -> None:
    if not q_BNLD.is_cuda or q_BNLD.dtype not in (torch.float16, torch.bfloat16):
        kind = str(q_BNLD.dtype).removeprefix("torch.")
        raise ExVideoError(
            f"attention {backend!r} runs in float16 or bfloat16 on a GPU, not in {kind} on {q_BNLD.device.type}. "
            f"{_INSTEAD}"
        )
