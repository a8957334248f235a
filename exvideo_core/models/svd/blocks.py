"""Blocks of SVD's UNet: a residual block and a transformer block, each followed by its twin in time.

Parameter names are those of the sgm code base, so the published file loads as it is.
Shapes: N clips x T frames (B = N T), C channels, H and W latent height and width, L = H W tokens, D context.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ...attention import Attention
from ..layers import FeedForward, Ops, norm_groups, sinusoid
from .config import num_heads
from .temporal import TemporalExtension


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What every block of one forward pass is told, besides its input."""

    embedding: Tensor  # [B, C] of noise level, frame rate, motion and noise augmentation
    context: Tensor  # [B, L, D] of the image; SVD has a single token
    num_frames: int  # T
    frame_ids: Tensor  # [T], their places in the whole clip


class SelfOrCrossAttention(nn.Module):
    """Multi-head attention; without a context, tokens attend to each other."""

    def __init__(self, channels: int, context_dim: int, attention: Attention, ops: Ops) -> None:
        super().__init__()
        self.heads = num_heads(channels)
        self.attention = attention
        self.to_q = ops.Linear(channels, channels, bias=False)
        self.to_k = ops.Linear(context_dim, channels, bias=False)
        self.to_v = ops.Linear(context_dim, channels, bias=False)
        self.to_out = nn.Sequential(ops.Linear(channels, channels))

    def forward(self, x_BLC: Tensor, context_BLD: Tensor | None = None) -> Tensor:
        context = x_BLC if context_BLD is None else context_BLD
        q, k, v = (
            rearrange(t, "B L (N D) -> B N L D", N=self.heads)
            for t in (self.to_q(x_BLC), self.to_k(context), self.to_v(context))
        )
        return self.to_out(rearrange(self.attention(q, k, v), "B N L D -> B L (N D)"))

    def single_token(self, context_B1D: Tensor) -> Tensor:
        """Exact result for a context of one token: softmax over one key is 1, whatever the query. [B, 1, C]."""
        return self.to_out(self.to_v(context_B1D))


class TransformerBlock(nn.Module):
    """Self-attention, attention to the image, feed-forward; over the cells of each frame."""

    def __init__(self, channels: int, context_dim: int, attention: Attention, ops: Ops) -> None:
        super().__init__()
        self.norm1 = ops.LayerNorm(channels)
        self.attn1 = SelfOrCrossAttention(channels, channels, attention, ops)
        self.norm2 = ops.LayerNorm(channels)
        self.attn2 = SelfOrCrossAttention(channels, context_dim, attention, ops)
        self.norm3 = ops.LayerNorm(channels)
        self.ff = FeedForward(channels, ops)

    def forward(self, x_BLC: Tensor, context_BLD: Tensor) -> Tensor:
        x_BLC = x_BLC + self.attn1(self.norm1(x_BLC))
        if context_BLD.shape[1] == 1:
            x_BLC = x_BLC + self.attn2.single_token(context_BLD)
        else:
            x_BLC = x_BLC + self.attn2(self.norm2(x_BLC), context_BLD)
        return x_BLC + self.ff(self.norm3(x_BLC))


class TemporalTransformerBlock(TransformerBlock):
    """The same over the frames of each cell, with one more feed-forward in front."""

    def __init__(self, channels: int, context_dim: int, attention: Attention, ops: Ops) -> None:
        super().__init__(channels, context_dim, attention, ops)
        self.norm_in = ops.LayerNorm(channels)
        self.ff_in = FeedForward(channels, ops)

    def forward(self, x_BLC: Tensor, context_BLD: Tensor) -> Tensor:
        return super().forward(x_BLC + self.ff_in(self.norm_in(x_BLC)), context_BLD)


class Blend(nn.Module):
    """Learned mix of what a block computed per frame and what it computed over time."""

    def __init__(self) -> None:
        super().__init__()
        self.mix_factor = nn.Parameter(torch.zeros(1))

    def forward(self, spatial: Tensor, temporal: Tensor) -> Tensor:
        return blend(self.mix_factor, spatial, temporal)


def blend(mix_factor: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Weighted mean of two results, in the number format of the first; sigmoid of `mix_factor` is its share."""
    return torch.lerp(second.to(first.dtype), first, torch.sigmoid(mix_factor.float()).to(first))


class SpatioTemporalTransformer(nn.Module):
    """Transformer over cells, then over frames. ExVideo's extension, where there is one, sits between the two."""

    def __init__(
        self, channels: int, context_dim: int, extension_frames: int | None, attention: Attention, ops: Ops
    ) -> None:
        super().__init__()
        self.norm = ops.GroupNorm(norm_groups(channels), channels, eps=1e-6)
        self.proj_in = ops.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(channels, context_dim, attention, ops)])
        self.time_pos_embed = nn.Sequential(
            ops.Linear(channels, 4 * channels), nn.SiLU(), ops.Linear(4 * channels, channels)
        )
        self.extension = TemporalExtension(channels, extension_frames, ops) if extension_frames else None
        self.time_stack = nn.ModuleList([TemporalTransformerBlock(channels, context_dim, attention, ops)])
        self.time_mixer = Blend()
        self.proj_out = ops.Linear(channels, channels)

    def forward(self, x_BCHW: Tensor, on: Conditions) -> Tensor:
        height = x_BCHW.shape[2]
        spatial = self.proj_in(rearrange(self.norm(x_BCHW), "B C H W -> B (H W) C"))
        spatial = self.transformer_blocks[0](spatial, on.context)
        temporal = self.time_stack[0](self._over_time(spatial, height, on), self._time_context(spatial, on))
        temporal = rearrange(temporal, "(N L) T C -> (N T) L C", L=spatial.shape[1])
        out = self.proj_out(self.time_mixer(spatial, temporal))
        return x_BCHW + rearrange(out, "B (H W) C -> B C H W", H=height)

    def _over_time(self, spatial_BLC: Tensor, height: int, on: Conditions) -> Tensor:
        """Position the frames and regroup: [(N T), L, C] -> [(N L), T, C]."""
        if self.extension is None:
            position_TC = sinusoid(on.frame_ids, spatial_BLC.shape[-1]).to(spatial_BLC.dtype)
            x_BLC = _add_per_frame(spatial_BLC, self.time_pos_embed(position_TC))
            return rearrange(x_BLC, "(N T) L C -> (N L) T C", T=on.num_frames)
        x_NCTHW = rearrange(spatial_BLC, "(N T) (H W) C -> N C T H W", T=on.num_frames, H=height)
        x_NCTHW = self.extension(x_NCTHW, on.frame_ids, self.time_pos_embed)
        return rearrange(x_NCTHW, "N C T H W -> (N H W) T C")

    def _time_context(self, spatial_BLC: Tensor, on: Conditions) -> Tensor:
        """The first frame's context for every cell: [(N L), tokens, D]."""
        return on.context[:: on.num_frames].repeat_interleave(spatial_BLC.shape[1], dim=0)


def _add_per_frame(x_BLC: Tensor, bias_TC: Tensor) -> Tensor:
    num_frames, channels = bias_TC.shape
    return (x_BLC.view(-1, num_frames, x_BLC.shape[1], channels) + bias_TC[:, None]).view(x_BLC.shape)


class ResBlock(nn.Module):
    """Two convolutions per frame, with the embedding added between them; then two over time."""

    def __init__(self, channels: int, out_channels: int, embedding: int, norm_eps: float, ops: Ops) -> None:
        super().__init__()
        conv = {"kernel_size": 3, "padding": 1}
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

    def forward(self, x_BCHW: Tensor, on: Conditions) -> Tensor:
        h_BCHW = self.in_layers(x_BCHW) + self.emb_layers(on.embedding)[:, :, None, None]
        spatial = self.skip_connection(x_BCHW) + self.out_layers(h_BCHW)
        x_NCTHW = rearrange(spatial, "(N T) C H W -> N C T H W", T=on.num_frames)
        temporal = rearrange(self.time_stack(x_NCTHW, on.embedding), "N C T H W -> (N T) C H W")
        return self.time_mixer(spatial, temporal)


class TemporalResBlock(nn.Module):
    """Residual block over three neighbouring frames; its norms take in all frames of the clip."""

    def __init__(self, channels: int, embedding: int | None, norm_eps: float, ops: Ops) -> None:
        super().__init__()
        conv = {"kernel_size": (3, 1, 1), "padding": (1, 0, 0)}
        self.in_layers = _norm_act(channels, norm_eps, ops, ops.Conv3d(channels, channels, **conv))
        if embedding is not None:  # the autoencoder's have none
            self.emb_layers = nn.Sequential(nn.SiLU(), ops.Linear(embedding, channels))
        self.out_layers = _norm_act(channels, norm_eps, ops, nn.Identity(), ops.Conv3d(channels, channels, **conv))

    def forward(self, x_NCTHW: Tensor, embedding_BC: Tensor | None = None) -> Tensor:
        h_NCTHW = self.in_layers(x_NCTHW)
        if embedding_BC is not None:
            bias = rearrange(self.emb_layers(embedding_BC), "(N T) C -> N C T 1 1", T=x_NCTHW.shape[2])
            h_NCTHW = h_NCTHW + bias
        return x_NCTHW + self.out_layers(h_NCTHW)


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
        height, width = x_BCHW.shape[-2:]
        return self.conv(F.interpolate(x_BCHW, size or (2 * height, 2 * width), mode="nearest"))
