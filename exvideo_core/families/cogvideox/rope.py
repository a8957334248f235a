"""3D rotary position embeddings (RoPE, arXiv:2104.09864) of CogVideoX-5B 1.0 (arXiv:2408.06072)."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ...nn.fused import is_fused, rotate_pairs
from ...nn.kernels import operators, with_kernel_in_place

_TRAINED_HEIGHT, _TRAINED_WIDTH = 30, 45  # tokens of the 480x720 pixels the model was trained on


def crop_region(height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Position range of a frame in the grid of the training resolution: (top, left), (bottom, right), in tokens.

    The frame is fitted into the grid and centred, as in DiffSynth-Studio 1.1.9 and diffusers before 0.42.
    """
    if height / width > _TRAINED_HEIGHT / _TRAINED_WIDTH:
        fitted_height, fitted_width = _TRAINED_HEIGHT, round(_TRAINED_HEIGHT / height * width)
    else:
        fitted_height, fitted_width = round(_TRAINED_WIDTH / width * height), _TRAINED_WIDTH
    top = round((_TRAINED_HEIGHT - fitted_height) / 2)
    left = round((_TRAINED_WIDTH - fitted_width) / 2)
    return (top, left), (top + fitted_height, left + fitted_width)


def rope_angles(times: Tensor, height: int, width: int, head_dim: int) -> Tensor:
    """Rotation angle of each pair of a head's channels, for every token.

    A quarter of the channels encodes time (the number of the latent frame, also beyond the trained length), three
    eighths the height and three eighths the width.

    Args:
        times: numbers of the latent frames, [..., T].
        height, width: size of a frame in tokens.
        head_dim: channels of a head, a multiple of 16.

    Returns:
        [..., T * height * width, head_dim / 2] float32.
    """
    (top, left), (bottom, right) = crop_region(height, width)
    rows, columns = _spread(top, bottom, height), _spread(left, right, width)
    sizes = (head_dim // 4, head_dim // 8 * 3, head_dim // 8 * 3)
    time, row, column = (
        position.to(times.device)[..., None].float() * _frequencies(size, times.device)
        for position, size in zip((times, rows, columns), sizes, strict=True)
    )
    grid = (*times.shape, height, width)
    angles = (
        time[..., :, None, None, :].expand(*grid, -1),
        row[:, None, :].expand(*grid, -1),
        column.expand(*grid, -1),
    )
    return torch.cat(angles, dim=-1).flatten(-4, -2)


@lru_cache(maxsize=4)
def rope_freqs_cis(
    times: tuple[tuple[float, ...], ...],
    height: int,
    width: int,
    head_dim: int,
    text_tokens: int,
    device: torch.device,
) -> Tensor:
    """Factors for `apply_rope` of all tokens, cached: 1 for the text's, which come first, then the video's.

    `times` are for each clip or once for all; see `rope_angles`. The result is complex64 [L, B or 1, 1, head_dim / 2],
    the same for all heads.
    """
    with torch.inference_mode(False), torch.no_grad():  # a later call that uses the cache may need gradients
        angles = rope_angles(torch.tensor(times, device=device), height, width, head_dim)
        return freqs_cis(F.pad(angles, (0, 0, text_tokens, 0))).transpose(0, 1)[:, :, None]


def freqs_cis(angles: Tensor) -> Tensor:
    """Complex rotary factors exp(i * angle)."""
    return torch.polar(torch.ones_like(angles), angles)


def apply_rope(x: Tensor, freqs_cis: Tensor) -> Tensor:
    """Rotate neighbouring pairs of channels of x [..., D] by factors, broadcast over [..., D / 2], in float32."""
    if is_fused():
        return rotate_pairs(x, freqs_cis.real, freqs_cis.imag)
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * freqs_cis).flatten(-2).to(x.dtype)


@with_kernel_in_place(operators.norm_rope)
def norm_rope(x_LBND: Tensor, weight_D: Tensor, bias_D: Tensor, freqs_cis: Tensor, eps: float) -> Tensor:
    """Layer norm of each head, then `apply_rope`; in place on x."""
    return x_LBND.copy_(apply_rope(F.layer_norm(x_LBND, weight_D.shape, weight_D, bias_D, eps), freqs_cis))


def _spread(start: int, stop: int, count: int) -> Tensor:
    """`count` evenly spaced positions in [start, stop)."""
    return (start + torch.arange(count, dtype=torch.float64) * ((stop - start) / count)).float()


def _frequencies(channels: int, device: torch.device) -> Tensor:
    return 1.0 / 10000 ** (torch.arange(0, channels, 2, dtype=torch.float32, device=device) / channels)
