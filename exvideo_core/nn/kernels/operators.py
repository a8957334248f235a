"""The kernels as PyTorch operators, `torch.ops.exvideo`, which know their results' shapes without computing.

Shapes: N items, L positions of an item, C channels, R rows.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

_MOST_RESIDUALS = 3
_LIBRARY = torch.library.Library("exvideo", "FRAGMENT")  # lives as long as this module


def _operator(schema: str, empty: Callable[..., Any], module: str | None = None) -> Callable[..., Any]:
    """Define the operator of a schema `name(...) -> ...`, whose kernel is `launch` of the module `name`.

    Args:
        schema: its first argument is changed if it has a `!`.
        empty: makes the result's tensors, which the kernel fills after the arguments, or returns the one it changes.
        module: that of the kernel, if it is not `name`; its `launch` fills the last argument, which is the first here.
    """
    name = schema.partition("(")[0]
    is_in_place = "!" in schema

    def on_gpu(*args: Any) -> Tensor | tuple[Tensor, ...]:
        launch = import_module(f".{module or name}", __package__).launch  # here, because it needs Triton
        results: Tensor | tuple[Tensor, ...] = empty(*args)
        filled = () if is_in_place else results if isinstance(results, tuple) else (results,)
        with torch.cuda.device(args[0].device):  # Triton launches on the current device
            launch(*((*args[1:], args[0]) if module else args), *filled)
        return results

    if not hasattr(torch.ops.exvideo, name):  # another copy of this package may be in the process
        _LIBRARY.define(schema)
        _LIBRARY.impl(name, on_gpu, "CUDA")
        _LIBRARY.impl(name, empty, "Meta")
    return getattr(torch.ops.exvideo, name)


def _empty_like(x: Tensor, *_others: Any) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _empty_statistics(x_NLC: Tensor) -> tuple[Tensor, Tensor]:
    mean_NC = torch.empty((len(x_NLC), x_NLC.shape[-1]), dtype=torch.float32, device=x_NLC.device)
    return mean_NC, torch.empty_like(mean_NC)


def _empty_half(x_RC: Tensor) -> Tensor:
    return torch.empty((len(x_RC), x_RC.shape[1] // 2), dtype=x_RC.dtype, device=x_RC.device)


def _empty_hidden(x_RC: Tensor, weight_GC: Tensor, _bias_G: Tensor) -> Tensor:
    return torch.empty((len(x_RC), len(weight_GC) // 2), dtype=x_RC.dtype, device=x_RC.device)


def _empty_scale(mean_NPC: Tensor, *_others: Any) -> tuple[Tensor, Tensor]:
    factor_NC = torch.empty_like(mean_NPC[:, 0], memory_format=torch.contiguous_format)
    return factor_NC, torch.empty_like(factor_NC)


def _changed(x: Tensor, *_others: Any) -> Tensor:
    return x


_channel_statistics = _operator("channel_statistics(Tensor x) -> (Tensor, Tensor)", _empty_statistics)
_scaled = _operator("scaled(Tensor x, Tensor factor, Tensor summand, bool silu) -> Tensor", _empty_like)
_scaled_into = _operator(
    "scaled_into(Tensor(a!) out, Tensor x, Tensor factor, Tensor summand, bool silu) -> Tensor(a!)", _changed, "scaled"
)
_gated_gelu = _operator("gated_gelu(Tensor x) -> Tensor", _empty_half)
_gated_product = _operator("gated_product(Tensor x, Tensor weight, Tensor bias) -> Tensor", _empty_hidden)

_layer_norm = _operator(
    "layer_norm(Tensor x, Tensor? shift, Tensor factor, Tensor summand, int split, float eps) -> Tensor", _empty_like
)
_latent_scaled = _operator(
    "latent_scaled(Tensor x, Tensor factor, Tensor summand, Tensor gain, Tensor shift, int width, int latent_width, "
    "int repeats, int lead) -> Tensor",
    _empty_like,
)
_norm_rope = _operator(
    "norm_rope(Tensor(a!) x, Tensor weight, Tensor bias, Tensor factors, float eps) -> Tensor(a!)", _changed
)
_added_residual = _operator(
    "added_residual(Tensor(a!) x, Tensor[] residuals, Tensor bias, Tensor share) -> Tensor(a!)", _changed
)
_group_scale = _operator(
    "group_scale(Tensor mean, Tensor variance, Tensor weight, Tensor bias, Tensor shift, int groups, float eps) "
    "-> (Tensor, Tensor)",
    _empty_scale,
)


def items(x_BCX: Tensor) -> Tensor | None:
    """View a feature map [B, C, H, W] or [B, C, T, H, W] as [N, L, C], an item for each image; None if it is none.

    Its channels must be side by side, and its images dense; images may be apart.
    """
    x_BXC = x_BCX.movedim(1, -1)
    *leading, height, width, channels = x_BXC.shape
    step, inner = width * channels, (x_BXC.stride(-3), x_BXC.stride(-2), x_BXC.stride(-1))
    if len(leading) > 2 or inner != (step, channels, 1):
        return None
    if len(leading) == 2 and leading[0] > 1 and x_BXC.stride(0) != leading[1] * x_BXC.stride(1):
        return None  # clips apart are no view, and a kernel in place would change a copy
    x_NHWC = x_BXC if len(leading) == 1 else x_BXC.flatten(0, 1)
    return x_NHWC.view(len(x_NHWC), height * width, channels)


def channel_statistics(x_BCX: Tensor) -> tuple[Tensor, ...] | None:
    """See `group_norm.channel_statistics`."""
    x_NLC = items(x_BCX)
    return None if x_NLC is None else _channel_statistics(x_NLC)


def scaled(x_BCX: Tensor, factor: Tensor, summand: Tensor) -> Tensor | None:
    """See `fused.scaled`."""
    return _scaled_items(x_BCX, factor, summand, silu=False)


def scaled_silu(x_BCX: Tensor, factor: Tensor, summand: Tensor) -> Tensor | None:
    """See `fused.scaled_silu`."""
    return _scaled_items(x_BCX, factor, summand, silu=True)


def scaled_silu_into(out_BCX: Tensor, x_BCX: Tensor, factor: Tensor, summand: Tensor) -> Tensor | None:
    """See `fused.scaled_silu_into`."""
    out_NLC, given = items(out_BCX), _items_and_scale(x_BCX, factor, summand)
    if out_NLC is None or given is None or not out_NLC.is_contiguous():
        return None
    _scaled_into(out_NLC, *given, True)
    return out_BCX


def _scaled_items(x_BCX: Tensor, factor: Tensor, summand: Tensor, *, silu: bool) -> Tensor | None:
    given = _items_and_scale(x_BCX, factor, summand)
    return None if given is None else _scaled(*given, silu).view(x_BCX.movedim(1, -1).shape).movedim(-1, 1)


def _items_and_scale(x_BCX: Tensor, factor: Tensor, summand: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """The items of x with their factors and summands, [N or 1, C]."""
    x_NLC, per_image = items(x_BCX), factor.numel() != x_BCX.shape[1]
    if x_NLC is None or (per_image and factor.numel() != x_BCX.shape[1] * len(x_NLC)):
        return None
    factor_NC, summand_NC = (each.reshape(-1, x_BCX.shape[1]).contiguous() for each in (factor, summand))
    return x_NLC, factor_NC, summand_NC


def gated_gelu(x: Tensor) -> Tensor | None:
    """See `fused.gated_gelu`."""
    if not x.is_contiguous():
        return None
    return _gated_gelu(x.flatten(0, -2)).view(*x.shape[:-1], -1)


def group_scale(
    mean_NPC: Tensor,
    variance_NPC: Tensor,
    weight_C: Tensor,
    bias_C: Tensor | None,
    shift_NC: Tensor | None,
    groups: int,
    eps: float,
) -> tuple[Tensor, ...] | None:
    """See `group_norm.group_scale`."""
    if bias_C is None or mean_NPC.dtype != torch.float32:
        return None
    shift_NC = bias_C.new_zeros(1, len(bias_C)) if shift_NC is None else shift_NC.contiguous()
    return _group_scale(mean_NPC.contiguous(), variance_NPC.contiguous(), weight_C, bias_C, shift_NC, groups, eps)


def added_residual(x_BCX: Tensor, bias_BC: Tensor, share: Tensor | None, *residuals_BCX: Tensor) -> Tensor | None:
    """See `fused.added_residual`."""
    x_NLC, residuals_NLC = items(x_BCX), [items(each) for each in residuals_BCX]
    bias_NC = bias_BC.reshape(-1, x_BCX.shape[1]).contiguous()
    if x_NLC is None or any(each is None or each.shape != x_NLC.shape for each in residuals_NLC):
        return None
    if len(bias_NC) not in (1, len(x_NLC)) or len(residuals_NLC) > _MOST_RESIDUALS:
        return None
    share = bias_NC.new_ones(1) if share is None else share.reshape(1)
    _added_residual(x_NLC, residuals_NLC, bias_NC, share)
    return x_BCX


def gated_product(x: Tensor, weight_GC: Tensor, bias_G: Tensor | None) -> Tensor | None:
    """See `fused.gated_product`."""
    tensors = (x, weight_GC) if bias_G is None else (x, weight_GC, bias_G)
    if x.device.type == "cuda" and torch.cuda.get_device_capability(x.device) < (8, 0):
        return None  # Triton has no tensor cores of Turing
    is_fit = all(each.is_contiguous() and each.dtype == x.dtype and each.dtype.itemsize == 2 for each in tensors)
    if bias_G is None or not is_fit:
        return None
    return _gated_product(x.flatten(0, -2), weight_GC, bias_G).view(*x.shape[:-1], -1)


def shifted_layer_norm(x: Tensor, shift_C: Tensor, weight_C: Tensor, bias_C: Tensor, eps: float) -> Tensor | None:
    """See `layer_norm.shifted_layer_norm`."""
    if x.ndim not in (2, 3) or x.stride(-1) != 1:
        return None
    x_LBC = x.unflatten(0, (-1, 1)) if x.ndim == 2 else x
    scale = weight_C[None, None].contiguous(), bias_C[None, None].contiguous()
    return _layer_norm(x_LBC, shift_C.contiguous(), *scale, 0, eps).view(x.shape)


def modulated_layer_norm(
    x_LBC: Tensor, factor_PBC: Tensor, summand_PBC: Tensor, split: int, eps: float
) -> Tensor | None:
    """See `layer_norm.modulated_layer_norm`."""
    if x_LBC.stride(-1) != 1:
        return None
    return _layer_norm(x_LBC, None, factor_PBC.contiguous(), summand_PBC.contiguous(), split, eps)


def norm_rope(x_LBND: Tensor, weight_D: Tensor, bias_D: Tensor, freqs_cis: Tensor, eps: float) -> Tensor | None:
    """See `rope.norm_rope`."""
    dim, factors_LBD = x_LBND.shape[-1], torch.view_as_real(freqs_cis)[:, :, 0].flatten(-2)
    if not x_LBND.is_contiguous() or dim & (dim - 1) or factors_LBD.dtype != torch.float32:
        return None
    return _norm_rope(x_LBND, weight_D.contiguous(), bias_D.contiguous(), factors_LBD, eps)


def gelu_product(x: Tensor, weight_GC: Tensor, bias_G: Tensor | None) -> Tensor | None:
    """See `fused.gelu_product`; this one is cuBLAS's, whose last step is GELU."""
    if bias_G is None or x.dtype.itemsize != 2:
        return None
    rows = x.flatten(0, -2)
    return torch._addmm_activation(bias_G, rows, weight_GC.t(), use_gelu=True).view(*x.shape[:-1], -1)


def latent_scaled_silu(
    x_BCFHW: Tensor,
    factor_C: Tensor,
    summand_C: Tensor,
    gain_BCThw: Tensor,
    shift_BCThw: Tensor,
    repeats: int,
    lead: int,
) -> Tensor | None:
    """See `norms.latent_scaled_silu`."""
    if len(x_BCFHW) > 1 or factor_C.dtype != torch.float32:
        return None
    x_FLC, width, latent_width = items(x_BCFHW), x_BCFHW.shape[-1], gain_BCThw.shape[-1]
    if x_FLC is None or gain_BCThw.dtype != shift_BCThw.dtype:
        return None
    of_cells = (each[0].permute(1, 2, 3, 0).flatten(1, 2).contiguous() for each in (gain_BCThw, shift_BCThw))
    scale = factor_C.flatten().contiguous(), summand_C.flatten().contiguous()
    out_FLC = _latent_scaled(x_FLC, *scale, *of_cells, width, latent_width, repeats, lead)
    return out_FLC.view(x_BCFHW.movedim(1, -1).shape).movedim(-1, 1)
