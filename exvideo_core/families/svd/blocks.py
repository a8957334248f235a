"""Residual blocks of SVD's UNet, spatial and temporal, and its down- and upsampling layers.

Parameter names are those of the sgm code base, so the published file loads as it is.
Shapes: T frames, C channels, H and W latent height and width, L tokens, D context; a single clip.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...nn.chunks import CHUNK_BYTES, added, items_within, map_chunks, plus, spans
from ...nn.conv3d import bind_conv3d_and_bias
from ...nn.convolution import bind_conv_and_bias
from ...nn.effective_weights import effective_weights
from ...nn.fused import added_residual, scaled_silu
from ...nn.group_norm import affine, norm_silu
from ...nn.layers import Ops, group_norm
from ...nn.upsample import upsampled_conv
from .lazy_frames import Frames

Rows = Callable[[slice], Tensor]  # computes a span of rows, [rows, T, C, W]


@dataclass(frozen=True, kw_only=True)
class UNetArgs:
    """Inputs of one forward pass that every block of the UNet shares."""

    embedding: Tensor  # [1 or T, C] of noise level, fps, motion bucket and noise augmentation
    context: Tensor  # [1 or T, L, D] of the image; SVD has a single token
    frame_ids: Tensor  # [T], frame numbers in the whole clip
    chunk_bytes: int = CHUNK_BYTES  # for the temporary tensors of one chunk


class Blend(nn.Module):
    """Learned mix of a block's spatial and temporal result: s spatial + (1 - s) temporal with s = sigmoid(mix)."""

    def __init__(self) -> None:
        super().__init__()
        self.mix_factor = nn.Parameter(torch.zeros(1))


class ResBlock(nn.Module):
    """Spatial residual block with the time embedding added between its convolutions, then a temporal one."""

    def __init__(self, channels: int, out_channels: int, embedding: int, norm_eps: float, ops: Ops) -> None:
        super().__init__()
        conv = {"kernel_size": 3, "padding": 1}
        self.out_channels = out_channels
        self.in_layers = _norm_act(channels, norm_eps, ops, ops.Conv2d(channels, out_channels, **conv))
        self.emb_layers = nn.Sequential(nn.SiLU(), ops.Linear(embedding, out_channels))
        last = ops.Conv2d(out_channels, out_channels, **conv)
        # index 2 was a dropout in the published code
        self.out_layers = _norm_act(out_channels, norm_eps, ops, nn.Identity(), last)
        is_same = channels == out_channels
        self.skip_connection = nn.Identity() if is_same else ops.Conv2d(channels, out_channels, kernel_size=1)
        self.time_stack = TemporalResBlock(out_channels, embedding, norm_eps, ops)
        self.time_mixer = Blend()

    def forward(self, x_TCHW: Frames, args: UNetArgs, skip_TCHW: Frames | None = None) -> Tensor:
        """Concatenates x and the skip along the channels. The result may overwrite the skip."""
        spatial_TCHW = self._spatial(x_TCHW, skip_TCHW, args)
        # s * x + (1 - s) * (x + residual) = x + (1 - s) * residual
        share = torch.sigmoid(-self.time_mixer.mix_factor.float()).to(spatial_TCHW)
        return self.time_stack(spatial_TCHW, share, args.embedding, args.chunk_bytes)

    def _spatial(self, x_TCHW: Frames, skip_TCHW: Frames | None, args: UNetArgs) -> Tensor:
        convs = self.in_layers[2], self.out_layers[3]
        (first, first_bias), (second, bias) = (bind_conv_and_bias(conv, args.embedding) for conv in convs)
        shift_TC = constants(self.emb_layers(args.embedding), first_bias)
        shortcut: Callable[[Tensor], Tensor] = self.skip_connection
        if not isinstance(self.skip_connection, nn.Identity):
            shortcut, shortcut_bias = bind_conv_and_bias(self.skip_connection, args.embedding)
            bias = shortcut_bias if bias is None else constants(bias, shortcut_bias)

        def chunk(frames: slice) -> Tensor:
            x = x_TCHW[frames]
            if skip_TCHW is not None:
                x = torch.cat([x, skip_TCHW[frames]], dim=1)
            h = first(norm_silu(self.in_layers[0], x))
            h = second(norm_silu(self.out_layers[0], h, shift_TC if len(shift_TC) == 1 else shift_TC[frames]))
            h = plus(h, shortcut(x)) if bias is None else added_residual(h, bias, None, shortcut(x))
            return channels_last(h)

        frames, channels, height, width = x_TCHW.shape
        total = channels + (skip_TCHW.shape[1] if skip_TCHW is not None else 0)
        # concatenated, normed, activated; two results, normed, activated, shortcut
        frame_bytes = (3 * total + 5 * self.out_channels) * height * width * x_TCHW.dtype.itemsize
        size = items_within(args.chunk_bytes, frame_bytes)
        shape = (frames, self.out_channels, height, width)
        out = skip_TCHW if isinstance(skip_TCHW, Tensor) and skip_TCHW.shape == shape else None
        return map_chunks(chunk, frames, size, None if torch.is_grad_enabled() else out)


def constants(values: Tensor, bias_C: Tensor | None) -> Tensor:
    """Constants of channels, [..., C]; with the bias that a convolution left out, if any, in float32 or wider."""
    if bias_C is None:
        return values
    wide = torch.promote_types(values.dtype, torch.float32)
    return values.to(wide) + bias_C.to(wide)


def channels_last(x_BCHW: Tensor) -> Tensor:
    """Channels-last memory, the layout of the whole UNet: no copies between convolutions and transformers."""
    return x_BCHW.contiguous(memory_format=torch.channels_last)


class TemporalResBlock(nn.Module):
    """Residual block of convolutions over three neighbouring frames; its norms span all frames of the clip."""

    def __init__(self, channels: int, embedding: int, norm_eps: float, ops: Ops) -> None:
        super().__init__()
        conv = {"kernel_size": (3, 1, 1), "padding": (1, 0, 0)}
        self.in_layers = _norm_act(channels, norm_eps, ops, ops.Conv3d(channels, channels, **conv))
        self.emb_layers = nn.Sequential(nn.SiLU(), ops.Linear(embedding, channels))
        self.out_layers = _norm_act(channels, norm_eps, ops, nn.Identity(), ops.Conv3d(channels, channels, **conv))

    def forward(self, x_TCHW: Tensor, share: Tensor, embedding_TC: Tensor, chunk_bytes: int) -> Tensor:
        """x + share * residual; in place on x, unless gradients are enabled."""
        height = x_TCHW.shape[2]
        rows, first, first_bias = self._conv_rows(self.in_layers, x_TCHW, chunk_bytes)
        out_HTCW = rows_first(torch.empty_like(x_TCHW)) if rows < height else None
        h_TCHW = frames_first(map_chunks(first, height, rows, out_HTCW))
        shift_TC = constants(self.emb_layers(embedding_TC), first_bias)
        shift_1C = shift_TC if first_bias is not None and len(shift_TC) == 1 else None
        if shift_1C is None:
            h_TCHW = plus(h_TCHW, shift_TC.to(h_TCHW)[:, :, None, None])
        rows, second, bias = self._conv_rows(self.out_layers, h_TCHW, chunk_bytes, shift_1C)
        return added_rows(x_TCHW, second, rows, bias, share)

    @staticmethod
    def _conv_rows(
        layers: nn.Sequential, x_TCHW: Tensor, chunk_bytes: int, shift_1C: Tensor | None = None
    ) -> tuple[int, Rows, Tensor | None]:
        """Norm, SiLU and temporal convolution as a function of a span of rows, and the rows that fit a chunk.

        Also the bias that the convolution leaves out. `shift_1C` is a constant that belongs to x, and is not in it.
        """
        norm, (conv, bias) = layers[0], bind_conv3d_and_bias(layers[-1], x_TCHW)
        x_HTCW, clip_1CTHW = rows_first(x_TCHW), x_TCHW.transpose(0, 1)[None]
        # scaled in float32 and activated; result, and the contributions of the neighbouring frames
        rows = items_within(chunk_bytes, x_HTCW[0].numel() * (8 + 4 * x_TCHW.element_size()))
        weights = effective_weights(norm, x_TCHW) if rows < len(x_HTCW) else None
        if weights is None:
            return len(x_HTCW), lambda _: conv(norm_silu(norm, clip_1CTHW, shift_1C))[0].permute(2, 1, 0, 3), bias
        shift_C, chunks = None if shift_1C is None else shift_1C[0], spans(len(x_HTCW), rows)
        scale = affine(norm, weights, (x_TCHW[:, :, span] for span in chunks), axes=3, shift_C=shift_C)
        return rows, lambda span: conv(scaled_silu(clip_1CTHW[:, :, :, span], *scale))[0].permute(2, 1, 0, 3), bias


def added_rows(x_TCHW: Tensor, residual: Rows, rows: int, bias_C: Tensor | None, share: Tensor | None = None) -> Tensor:
    """x + share * (residual + bias), in spans of so many rows; in place unless gradients are enabled.

    The bias is what the residual's convolution left out.
    """
    x_HTCW = rows_first(x_TCHW)
    if bias_C is None:
        return frames_first(added(x_HTCW, residual, rows, share))
    for span in spans(len(x_HTCW), rows):
        added_residual(frames_first(x_HTCW[span]), bias_C, share, frames_first(residual(span)))
    return x_TCHW


def rows_first(x_TCHW: Tensor) -> Tensor:
    """View as [H, T, C, W]."""
    return x_TCHW.permute(2, 0, 1, 3)


def frames_first(x_HTCW: Tensor) -> Tensor:
    """View as [T, C, H, W]; the inverse of `rows_first`."""
    return x_HTCW.permute(1, 2, 0, 3)


def _norm_act(channels: int, eps: float, ops: Ops, *then: nn.Module) -> nn.Sequential:
    return nn.Sequential(group_norm(channels, ops, eps), nn.SiLU(), *then)


class Upsample(nn.Module):
    """Double height and width, or upsample to `size` where a side was odd before it was halved."""

    def __init__(self, channels: int, ops: Ops) -> None:
        super().__init__()
        self.conv = ops.Conv2d(channels, channels, kernel_size=3, padding=1)

    def forward(self, x_BCHW: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        return upsampled_conv(self.conv, x_BCHW, size)
