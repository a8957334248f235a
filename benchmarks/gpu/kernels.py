"""Triton kernels at the sizes of the published networks: each against its twin, and those that were left out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.bench import Bench, name_of
from benchmarks.gpu.record import Row
from benchmarks.gpu.timing import timed
from exvideo_core.families.cogvideox.norms import latent_scaled_silu
from exvideo_core.families.cogvideox.rope import freqs_cis, norm_rope
from exvideo_core.nn.fused import (
    added_residual,
    gated_gelu,
    gated_product,
    gelu_product,
    scaled,
    scaled_silu,
    scaled_silu_into,
)
from exvideo_core.nn.group_norm import channel_statistics, group_scale
from exvideo_core.nn.kernels.checked import CheckedInPlace
from exvideo_core.nn.layer_norm import modulated_layer_norm, shifted_layer_norm

Arguments = tuple[Any, ...]
Case = tuple[str, str, Arguments]  # a kernel, what it computes in a network, and its arguments

KERNELS: Mapping[str, Any] = {
    "channel_statistics": channel_statistics,
    "group_scale": group_scale,
    "scaled": scaled,
    "scaled_silu": scaled_silu,
    "scaled_silu_into": scaled_silu_into,
    "latent_scaled_silu": latent_scaled_silu,
    "added_residual": added_residual,
    "gated_gelu": gated_gelu,
    "gated_product": gated_product,
    "gelu_product": gelu_product,
    "shifted_layer_norm": shifted_layer_norm,
    "modulated_layer_norm": modulated_layer_norm,
    "norm_rope": norm_rope,
}
# Relative norm of the difference: some roundings.
_LIMITS = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
# Feature maps: images of each, channels, height, width.
_MAPS = {
    "SVD, 64x64 cells": (128, 320, 64, 64),
    "SVD, 64x64 cells with a skip": (128, 960, 64, 64),
    "SVD, 16x16 cells": (128, 1280, 16, 16),
    "SVD's VAE, 512x512 pixels": (8, 128, 512, 512),
    "CogVideoX's VAE, 720x480 pixels": (8, 128, 480, 720),
}
_COGVIDEOX = (44776, 48, 64)  # tokens, heads, channels of a head
_TOKENS = {"SVD, 64x64 cells": (2**18, 320), "SVD, 16x16 cells": (2**15, 1280)}  # tokens and channels


def compare_all(bench: Bench) -> None:
    """Each kernel with its twin, in both 16-bit dtypes and float32."""
    for dtype in _LIMITS:
        for name, where, arguments in _cases(bench, dtype):
            compare(bench, name, where, arguments)
            bench.free()


def put_used(bench: Bench) -> None:
    """Record how many shapes of this run each kernel computes, and for which it was left out."""
    for name, kernel in KERNELS.items():
        wrong = [_shape(key) for key, is_trusted in kernel.trusted.items() if not is_trusted]
        bench.record.put(name, used=sum(kernel.trusted.values()), left_out=len(wrong), shapes=wrong[:20])


def _shape(key: Any) -> str:
    """Dtype and shape of a kernel's first tensor."""
    dtype, shape, *_ = key[0]
    return f"{name_of(dtype)} {list(shape)}"


def compare(bench: Bench, name: str, where: str, arguments: Arguments) -> None:
    """Record a kernel's difference to its twin, and the seconds of both."""
    kernel, x = KERNELS[name], arguments[0]
    settings: Row = {"of": where, "dtype": name_of(x.dtype), "shape": list(x.shape)}
    try:
        result = kernel.kernel(*_fresh(kernel, arguments))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # noqa: BLE001  # a compiler's, of any kind; the other kernels are still compared
        bench.check_that(name, False, **settings, failed=f"{type(error).__name__}: {str(error)[:200]}")
        return
    if result is None:
        bench.record.put(name, **settings, is_taken=False)
        return
    expected = kernel.twin(*_fresh(kernel, arguments))
    for ours, reference in zip(_parts(result), _parts(expected), strict=True):
        bench.check(name, ours, reference, _LIMITS[ours.dtype], **settings)
    del result, expected
    given = _fresh(kernel, arguments)
    seconds = [
        timed(bench, partial(call, *given), repeats=5).numbers["seconds"] for call in (kernel.kernel, kernel.twin)
    ]
    bench.record.put(f"{name}, time", **settings, kernel_seconds=seconds[0], twin_seconds=seconds[1])


def _fresh(kernel: Any, arguments: Arguments) -> Arguments:
    """Arguments for a computation, which may change the first."""
    return (arguments[0].clone(), *arguments[1:]) if isinstance(kernel, CheckedInPlace) else arguments


def _parts(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else result


# as the networks call them


def _cases(bench: Bench, dtype: torch.dtype) -> Iterator[Case]:
    for where, shape in _MAPS.items():
        images, channels, height, width = bench.size(shape, (2, 32, 8, 8))
        x_THWC = bench.random(images, height, width, channels, dtype=dtype)
        x_THWC += bench.random(channels, dtype=dtype, seed=4)  # a mean near zero would be all rounding
        yield from _of_map(bench, where, x_THWC.permute(0, 3, 1, 2))
    for where, (rows, columns) in _TOKENS.items():
        tokens, channels = bench.size((rows, columns), (16, 32))
        yield "gated_gelu", where, (bench.random(tokens, 8 * channels, dtype=dtype),)
        x_LC, bias_G = bench.random(tokens, channels, dtype=dtype), bench.random(8 * channels, dtype=dtype, seed=2)
        weight_GC = bench.random(8 * channels, channels, dtype=dtype, seed=3) / math.sqrt(channels)
        yield "gated_product", where, (x_LC, weight_GC, bias_G)
        scale = (bench.random(channels, dtype=dtype, seed=seed) for seed in (4, 5))
        yield "shifted_layer_norm", where, (x_LC, bias_G[:channels].float(), *scale, 1e-5)
    yield from _of_cogvideox(bench, dtype)


def _of_cogvideox(bench: Bench, dtype: torch.dtype) -> Iterator[Case]:
    """A block of the transformer at 129 frames, and the autoencoder's norms."""
    tokens, heads, dim = bench.size(_COGVIDEOX, (20, 2, 16))
    where, channels, first = "CogVideoX, 129 frames", heads * dim, tokens // 8
    x_LBC = bench.random(tokens, 1, channels, dtype=dtype)
    factor_PBC, summand_PBC = (bench.random(2, 1, channels, seed=seed) for seed in (2, 3))
    yield "modulated_layer_norm", where, (x_LBC, factor_PBC, summand_PBC, first, 1e-5)
    weight_GC = bench.random(4 * channels, channels, dtype=dtype, seed=4) / math.sqrt(channels)
    yield "gelu_product", where, (x_LBC, weight_GC, bench.random(4 * channels, dtype=dtype, seed=5))
    weight_D, bias_D = (bench.random(dim, dtype=dtype, seed=seed) for seed in (6, 7))
    factors = freqs_cis(bench.random(tokens, 1, 1, dim // 2, seed=8))
    yield "norm_rope", where, (x_LBC.view(tokens, 1, heads, dim), weight_D, bias_D, factors, 1e-6)
    frames, channels, height, width = bench.size((8, 256, 240, 360), (4, 32, 8, 16))
    x_BCFHW = bench.random(1, frames, height, width, channels, dtype=dtype).movedim(-1, 1)
    cells = [
        bench.random(1, 2, height // 4, width // 4, channels, dtype=dtype, seed=seed).movedim(-1, 1) for seed in (2, 3)
    ]
    scale = (bench.random(channels, seed=seed).view(-1, 1, 1, 1) for seed in (4, 5))
    yield "latent_scaled_silu", "CogVideoX's VAE, 360x240", (x_BCFHW, *scale, *cells, frames // 2, 0)


def _of_map(bench: Bench, where: str, x_TCHW: Tensor) -> Iterator[Case]:
    """Norms and sums of a feature map, as images and as a clip."""
    images, channels, height, _ = x_TCHW.shape
    clip_1CTHW = x_TCHW.transpose(0, 1)[None]
    yield "channel_statistics", where, (x_TCHW,)
    yield "channel_statistics", f"{where}, half of the rows", (x_TCHW[:, :, : height // 2],)
    yield "channel_statistics", f"{where}, a clip", (clip_1CTHW,)
    first_TC, second_TC = (bench.random(images, channels, seed=seed) for seed in (2, 3))
    scale_TC11 = first_TC[..., None, None], second_TC[..., None, None]
    scale_C111 = first_TC[0].view(-1, 1, 1, 1), second_TC[0].view(-1, 1, 1, 1)
    yield "scaled", where, (x_TCHW, *scale_TC11)
    yield "scaled_silu", where, (x_TCHW, *scale_TC11)
    yield "scaled_silu", f"{where}, a clip", (clip_1CTHW, *scale_C111)
    yield "scaled_silu_into", where, (torch.empty_like(clip_1CTHW), clip_1CTHW, *scale_C111)
    weight_C, bias_C, shift_C = (bench.random(channels, dtype=x_TCHW.dtype, seed=seed) for seed in (5, 6, 7))
    of, groups, eps = f"{where}, weights in {name_of(x_TCHW.dtype)}", 32, 1e-6
    of_images = first_TC[:, None], second_TC[:, None].square()  # means and variances
    of_clip = first_TC[None], second_TC[None].square()
    yield "group_scale", of, (*of_images, weight_C, bias_C, shift_C[None], groups, eps)
    yield "group_scale", f"{of}, a clip", (*of_clip, weight_C, bias_C, None, groups, eps)
    residual_TCHW, share = x_TCHW.flip(0), shift_C[:1]
    yield "added_residual", where, (x_TCHW, bias_C, None, residual_TCHW)
    yield "added_residual", f"{where}, a bias for each image", (x_TCHW, first_TC, None, residual_TCHW, residual_TCHW)
    yield "added_residual", f"{where}, a share", (x_TCHW, bias_C, share, residual_TCHW)
