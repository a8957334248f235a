"""Residual blocks of SVD's UNet, per frame and over time, and its steps between the levels.

Parameter names are those of the sgm code base, so the published file loads as it is.
Shapes: T frames, C channels, H and W latent height and width, L tokens, D context. Everything is of one clip.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...nn.chunks import CHUNK_BYTES, added, items_within, map_chunks, plus, spans
from ...nn.conv3d import bind_conv3d
from ...nn.convolution import bind_conv
from ...nn.effective_weights import effective_weights
from ...nn.fused import scaled_silu
from ...nn.group_norm import affine, norm_silu
from ...nn.layers import Ops, norm_groups
from ...nn.upsample import upsampled_conv
from .lazy_frames import Frames


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What every block of one forward pass is told, besides its input."""

    embedding: Tensor  # [1 or T, C] of noise level, frame rate, motion and noise augmentation
    context: Tensor  # [1 or T, L, D] of the image; SVD has a single token
    frame_ids: Tensor  # [T], their places in the whole clip
    chunk_bytes: int = CHUNK_BYTES  # for the temporary tensors of one piece


class Blend(nn.Module):
    """Learned mix of what a block computed per frame and what it computed over time."""

    def __init__(self) -> None:
        super().__init__()
        self.mix_factor = nn.Parameter(torch.zeros(1))


def blend(mix_factor: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Weighted mean of two results, in the number format of the first; sigmoid of `mix_factor` is its share."""
    return torch.lerp(second.to(first.dtype), first, torch.sigmoid(mix_factor.float()).to(first))


class ResBlock(nn.Module):
    """Two convolutions per frame, with the embedding added between them; then two over time."""

    def __init__(self, channels: int, out_channels: int, embedding: int, norm_eps: float, ops: Ops) -> None:
        super().__init__()
        conv = {"kernel_size": 3, "padding": 1}
        self.out_channels = out_channels
        self.in_layers = _norm_act(channels, norm_eps, ops, ops.Conv2d(channels, out_channels, **conv))
        self.emb_layers = nn.Sequential(nn.SiLU(), ops.Linear(embedding, out_channels))
        # index 2 was a dropout in the published code
        self.out_layers = _norm_act(
            out_channels, norm_eps, ops, nn.Identity(), ops.Conv2d(out_channels, out_channels, **conv)
        )
        self.skip_connection = (
            nn.Identity() if channels == out_channels else ops.Conv2d(channels, out_channels, kernel_size=1)
        )
        self.time_stack = TemporalResBlock(out_channels, embedding, norm_eps, ops)
        self.time_mixer = Blend()

    def forward(self, x_TCHW: Frames, on: Conditions, skip_TCHW: Frames | None = None) -> Tensor:
        """x, with the channels of a skip behind its own; the skip's memory may be used for the result."""
        spatial_TCHW = self._per_frame(x_TCHW, skip_TCHW, on)
        # mean of what comes in and of that plus a residual: so much of the residual
        share = torch.sigmoid(-self.time_mixer.mix_factor.float()).to(spatial_TCHW)
        return self.time_stack(spatial_TCHW, share, on.embedding, on.chunk_bytes)

    def _per_frame(self, x_TCHW: Frames, skip_TCHW: Frames | None, on: Conditions) -> Tensor:
        embedding_TC11 = self.emb_layers(on.embedding)[:, :, None, None]
        first, second = (bind_conv(conv, on.embedding) for conv in (self.in_layers[2], self.out_layers[3]))
        shortcut = self.skip_connection
        if not isinstance(shortcut, nn.Identity):
            shortcut = bind_conv(shortcut, on.embedding)

        def computed(frames: slice) -> Tensor:
            part = x_TCHW[frames]
            if skip_TCHW is not None:
                part = torch.cat([part, skip_TCHW[frames]], dim=1)
            h = first(norm_silu(self.in_layers[0], part))
            h = plus(h, embedding_TC11 if len(embedding_TC11) == 1 else embedding_TC11[frames])
            h = second(norm_silu(self.out_layers[0], h))
            return channels_last(plus(h, shortcut(part)))

        frames, channels, height, width = x_TCHW.shape
        total = channels + (skip_TCHW.shape[1] if skip_TCHW is not None else 0)
        # together, normed, activated; two results, normed, activated, shortcut
        size = items_within(
            on.chunk_bytes, (3 * total + 5 * self.out_channels) * height * width * x_TCHW.dtype.itemsize
        )
        shape = (frames, self.out_channels, height, width)
        out = skip_TCHW if isinstance(skip_TCHW, Tensor) and skip_TCHW.shape == shape else None
        return map_chunks(computed, frames, size, None if torch.is_grad_enabled() else out)


def channels_last(x_BCHW: Tensor) -> Tensor:
    """The same, laid out as everything here: so nothing has to be turned between convolutions and transformers."""
    return x_BCHW.contiguous(memory_format=torch.channels_last)


class TemporalResBlock(nn.Module):
    """Residual block over three neighbouring frames; its norms take in all frames of the clip."""

    def __init__(self, channels: int, embedding: int, norm_eps: float, ops: Ops) -> None:
        super().__init__()
        conv = {"kernel_size": (3, 1, 1), "padding": (1, 0, 0)}
        self.in_layers = _norm_act(channels, norm_eps, ops, ops.Conv3d(channels, channels, **conv))
        self.emb_layers = nn.Sequential(nn.SiLU(), ops.Linear(embedding, channels))
        self.out_layers = _norm_act(channels, norm_eps, ops, nn.Identity(), ops.Conv3d(channels, channels, **conv))

    def forward(self, x_TCHW: Tensor, share: Tensor, embedding_TC: Tensor, chunk_bytes: int) -> Tensor:
        """x and a share of the residual; in x itself, unless gradients are wanted."""
        x_HTCW = rows_first(x_TCHW)
        rows, first = self._over_time(self.in_layers, x_TCHW, chunk_bytes)
        room_HTCW = rows_first(torch.empty_like(x_TCHW)) if rows < len(x_HTCW) else None
        h_TCHW = frames_first(map_chunks(first, len(x_HTCW), rows, room_HTCW))
        h_TCHW = plus(h_TCHW, self.emb_layers(embedding_TC)[:, :, None, None])
        rows, second = self._over_time(self.out_layers, h_TCHW, chunk_bytes)
        return frames_first(added(x_HTCW, second, rows, share))

    @staticmethod
    def _over_time(layers: nn.Sequential, x_TCHW: Tensor, chunk_bytes: int) -> tuple[int, Callable[[slice], Tensor]]:
        """Norm over the clip, activation and convolution over time, as a function of rows; and rows for a piece."""
        norm, conv = layers[0], bind_conv3d(layers[-1], x_TCHW)
        x_HTCW, clip_1CTHW = rows_first(x_TCHW), x_TCHW.transpose(0, 1)[None]
        # scaled in float32 and activated; result, and the neighbours' part in it
        rows = items_within(chunk_bytes, x_HTCW[0].numel() * (8 + 4 * x_TCHW.element_size()))
        weights = effective_weights(norm, x_TCHW) if rows < len(x_HTCW) else None
        if weights is None:
            return len(x_HTCW), lambda _: conv(norm_silu(norm, clip_1CTHW))[0].permute(2, 1, 0, 3)
        factor_C, summand_C = affine(norm, weights, (x_TCHW[:, :, span] for span in spans(len(x_HTCW), rows)))
        scale = factor_C[:, None, None, None], summand_C[:, None, None, None]
        return rows, lambda span: conv(scaled_silu(clip_1CTHW[:, :, :, span], *scale))[0].permute(2, 1, 0, 3)


def rows_first(x_TCHW: Tensor) -> Tensor:
    """[H, T, C, W], in the same memory."""
    return x_TCHW.permute(2, 0, 1, 3)


def frames_first(x_HTCW: Tensor) -> Tensor:
    """Back to [T, C, H, W], in the same memory."""
    return x_HTCW.permute(1, 2, 0, 3)


def _norm_act(channels: int, eps: float, ops: Ops, *then: nn.Module) -> nn.Sequential:
    return nn.Sequential(ops.GroupNorm(norm_groups(channels), channels, eps=eps), nn.SiLU(), *then)


class Downsample(nn.Module):
    """Halve height and width."""

    def __init__(self, channels: int, ops: Ops) -> None:
        super().__init__()
        self.op = ops.Conv2d(channels, channels, kernel_size=3, stride=2, padding=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.op(x_BCHW)


class Upsample(nn.Module):
    """Double height and width, or grow to a given size: of a side that was odd before it was halved."""

    def __init__(self, channels: int, ops: Ops) -> None:
        super().__init__()
        self.conv = ops.Conv2d(channels, channels, kernel_size=3, padding=1)

    def forward(self, x_BCHW: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        return upsampled_conv(self.conv, x_BCHW, size)
