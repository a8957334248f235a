"""Attention kernels at the shapes of the published networks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.bench import Bench, is_installed, name_of, relative_error
from benchmarks.gpu.timing import rate, timed
from exvideo_core.errors import ExVideoError
from exvideo_core.nn.attention import BACKENDS, Attention
from exvideo_core.nn.attention.backends import PACKAGES, by_kernels
from exvideo_core.nn.attention.choice import choose

# Batch, heads, tokens, channels of a head, and whether the model is CogVideoX.
_SHAPES = {
    "CogVideoX, 129 frames": (1, 48, 44776, 64, True),
    "CogVideoX, 129 frames, 12 heads": (1, 12, 44776, 64, True),
    "SVD, frames of 512x512": (128, 5, 4096, 64, False),
    "SVD, frames of 1024x1024": (16, 5, 16384, 64, False),
    "SVD, over time": (4096, 5, 128, 64, False),
    "SVD's VAE": (8, 1, 4096, 512, False),
}
_OF_PYTORCH = ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION")
_QUERIES = 512  # of one head, whose result is compared with float32


def measure(bench: Bench) -> None:
    """Every kernel at every shape, and which one is chosen."""
    for dtype in dict.fromkeys((bench.half, bench.brain)):
        bench.record.put("chosen", backend=choose(bench.device, dtype, 64), dtype=name_of(dtype))
    for where, (batch, heads, tokens, channels, is_cogvideox) in _SHAPES.items():
        dtype = bench.brain if is_cogvideox else bench.half
        batch, heads, tokens = bench.size((batch, heads, tokens), (2, 2, 128))
        qkv_BLKND = bench.random(batch, tokens, 3, heads, channels, dtype=dtype)  # as the networks' projections lie
        qkv = [x_BLND.transpose(1, 2) for x_BLND in qkv_BLKND.unbind(2)]
        for name, attend in _candidates(bench).items():
            _measure(bench, f"{where}: {name}", attend, qkv)
        del qkv_BLKND, qkv
        bench.free()


def _candidates(bench: Bench) -> dict[str, Attention]:
    """PyTorch's kernels, and the installed packages'."""
    if not bench.on_gpu:
        return {"MATH": partial(by_kernels, ["MATH"])}
    found: dict[str, Attention] = {name: partial(by_kernels, [name]) for name in _OF_PYTORCH}
    for name, (module, _, _) in PACKAGES.items():
        if is_installed(module.partition(".")[0]):
            found[name] = BACKENDS[name]
    return found


def _measure(bench: Bench, name: str, attend: Callable[..., Tensor], qkv: list[Tensor]) -> None:
    q_BNLD, k_BNLD, v_BNLD = qkv
    try:
        numbers, result = timed(bench, lambda: attend(q_BNLD, k_BNLD, v_BNLD))
    except (RuntimeError, ImportError, ExVideoError) as error:  # not for such shapes, or not built for this card
        bench.record.put(name, unsupported=str(error).partition("\n")[0][:120])
        return
    batch, heads, tokens, channels = q_BNLD.shape
    q, k, v = (x_BNLD[:1, :1].float() for x_BNLD in (q_BNLD[:, :, :_QUERIES], k_BNLD, v_BNLD))
    difference = relative_error(result[:1, :1, :_QUERIES], F.scaled_dot_product_attention(q, k, v))
    bench.record.put(name, error=difference, **rate(4 * batch * heads * tokens**2 * channels, numbers))
