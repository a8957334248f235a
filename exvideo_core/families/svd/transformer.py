"""Spatio-temporal transformers of SVD's UNet: attention within each frame, then over time at each latent cell.

Parameter names are those of the sgm code base, so the published file loads as it is.
Shapes: T frames, C channels, H and W latent height and width, L = H W tokens of a frame, R = T L, D context,
B sequences, N heads; a single clip. Without gradients, blocks work in place on their input.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor, nn

from ...nn.attention import Attention
from ...nn.chunks import added, items_within, map_chunks, updated
from ...nn.group_norm import normed
from ...nn.layer_norm import bind_norm
from ...nn.layers import FeedForward, Ops, group_norm, sinusoid
from ...nn.linear import bind, bind_shifted, bind_sum, fused_qkv, total
from .blocks import Blend, UNetArgs
from .config import num_heads
from .temporal import TemporalExtension


class SelfOrCrossAttention(nn.Module):
    """Multi-head attention with its projections; self-attention has `context_dim == channels`."""

    split = "B L (N D) -> B N L D"

    def __init__(self, channels: int, context_dim: int, attention: Attention, ops: Ops) -> None:
        super().__init__()
        self.heads = num_heads(channels)
        self.attention = attention
        self.to_q = ops.Linear(channels, channels, bias=False)
        self.to_k = ops.Linear(context_dim, channels, bias=False)
        self.to_v = ops.Linear(context_dim, channels, bias=False)
        self.to_out = nn.Sequential(ops.Linear(channels, channels))

    def forward(self, x_BLC: Tensor, context_BLD: Tensor) -> Tensor:
        """Cross-attention to a context."""
        q, k, v = self.to_q(x_BLC), self.to_k(context_BLD), self.to_v(context_BLD)
        return self.to_out(self._attend(q, k, v))

    def bind(self, like: Tensor) -> tuple[Callable[[Tensor], Tensor], nn.Module]:
        """Self-attention as a function of chunks of sequences; and the layer that follows."""
        project = fused_qkv((self.to_q, self.to_k, self.to_v), like)
        return lambda x: self._attend(*project(x)), self.to_out[0]

    def single_token(self, context_B1D: Tensor) -> Tensor:
        """Cross-attention to a single token, [B, 1, C]: exact for any query, because softmax over one key is 1."""
        return self.to_out(self.to_v(context_B1D))

    def _attend(self, *qkv: Tensor) -> Tensor:
        q, k, v = (rearrange(x, self.split, N=self.heads) for x in qkv)
        # contiguous, because a linear layer would otherwise copy its weights for every sequence
        return rearrange(self.attention(q, k, v), "B N L D -> B L (N D)").contiguous()


class TemporalAttention(SelfOrCrossAttention):
    """Self-attention along the first axis of tokens [L, B, C]; the result is [B, L, C]."""

    split = "L B (N D) -> B N L D"


Tokens = tuple[Tensor, Tensor | None]  # tokens, and a constant [C] that belongs to them and is not in them


class TransformerBlock(nn.Module):
    """Self-attention within each frame, cross-attention to the image, feed-forward."""

    attention_class: type[SelfOrCrossAttention] = SelfOrCrossAttention

    def __init__(self, channels: int, context_dim: int, attention: Attention, ops: Ops) -> None:
        super().__init__()
        self.norm1 = ops.LayerNorm(channels)
        self.attn1 = self.attention_class(channels, channels, attention, ops)
        self.norm2 = ops.LayerNorm(channels)
        self.attn2 = SelfOrCrossAttention(channels, context_dim, attention, ops)
        self.norm3 = ops.LayerNorm(channels)
        self.ff = FeedForward(channels, ops)

    def forward(self, tokens: Tokens, context_TLD: Tensor, chunk_bytes: int) -> Tokens:
        """Tokens [T, L, C] of all frames, with a context for each frame or one for all.

        Cross-attention to a single token does not depend on the query. If all frames share that token, its result is a
        constant that is added within the self-attention's output projection.
        """
        cross_T1C = self.attn2.single_token(context_TLD) if context_TLD.shape[1] == 1 else None
        is_constant = cross_T1C is not None and len(cross_T1C) == 1
        constant_C = cross_T1C.flatten() if cross_T1C is not None and is_constant else None
        x_TLC, shift_C = self._self_attention(*tokens, constant_C, chunk_bytes)
        if not is_constant:
            norm = bind_norm(self.norm2, x_TLC, shift_C)
            x_TLC = x_TLC + (self.attn2(norm(x_TLC), context_TLD) if cross_T1C is None else cross_T1C)
        return feed_forward(x_TLC, shift_C, self.norm3, self.ff, chunk_bytes)

    def _self_attention(
        self, x_TLC: Tensor, shift_C: Tensor | None, constant_C: Tensor | None, chunk_bytes: int
    ) -> Tokens:
        norm, (attend, out) = bind_norm(self.norm1, x_TLC, shift_C), self.attn1.bind(x_TLC)
        add, left_C = bind_sum(out, x_TLC, total(shift_C, constant_C))
        size = items_within(chunk_bytes, 6 * x_TLC[:1].nbytes)  # normed, q, k, v, attended, result
        return updated(x_TLC, lambda frames: add(x_TLC[frames], attend(norm(x_TLC[frames]))), size), left_C


class TemporalTransformerBlock(TransformerBlock):
    """Transformer block over the frames of each latent cell, with a feed-forward before the attention."""

    attention_class = TemporalAttention

    def __init__(self, channels: int, context_dim: int, attention: Attention, ops: Ops) -> None:
        super().__init__(channels, context_dim, attention, ops)
        self.norm_in = ops.LayerNorm(channels)
        self.ff_in = FeedForward(channels, ops)

    def forward(self, tokens: Tokens, context_TLD: Tensor, chunk_bytes: int) -> Tokens:
        """Tokens [T, L, C] of all frames, with one context for all."""
        tokens = feed_forward(*tokens, self.norm_in, self.ff_in, chunk_bytes)
        return super().forward(tokens, context_TLD, chunk_bytes)

    def _self_attention(
        self, x_TLC: Tensor, shift_C: Tensor | None, constant_C: Tensor | None, chunk_bytes: int
    ) -> Tokens:
        norm, (attend, out) = bind_norm(self.norm1, x_TLC, shift_C), self.attn1.bind(x_TLC)
        add, left_C = bind_sum(out, x_TLC, total(shift_C, constant_C))
        x_LTC = x_TLC.transpose(0, 1)  # cells first, because chunks are cut along the first axis
        size = items_within(chunk_bytes, 7 * x_LTC[:1].nbytes)  # gathered, normed, q, k, v, attended, result
        x_LTC = updated(x_LTC, lambda cells: add(x_LTC[cells], attend(norm(x_TLC[:, cells]))), size)
        return x_LTC.transpose(0, 1), left_C


def feed_forward(
    x_TLC: Tensor, shift_C: Tensor | None, norm: nn.Module, layer: FeedForward, chunk_bytes: int
) -> Tokens:
    """x + layer(norm(x)), in chunks of tokens; x lacks a constant."""
    x_RC = x_TLC.flatten(0, 1)
    # normed, twice 4 C, the gate's activation, gated, result
    size = items_within(chunk_bytes, 18 * x_RC[:1].nbytes)
    normalise, (feed, out) = bind_norm(norm, x_RC, shift_C), layer.bind(x_RC)
    add, left_C = bind_sum(out, x_RC, shift_C)
    return updated(x_RC, lambda rows: add(x_RC[rows], feed(normalise(x_RC[rows]))), size).view(x_TLC.shape), left_C


class SpatioTemporalTransformer(nn.Module):
    """Spatial block, ExVideo's extension if the model has one, temporal block, and a learned mix of both results."""

    def __init__(
        self, channels: int, context_dim: int, extension_frames: int | None, attention: Attention, ops: Ops
    ) -> None:
        super().__init__()
        self.norm = group_norm(channels, ops)
        self.proj_in = ops.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(channels, context_dim, attention, ops)])
        hidden = 4 * channels
        self.time_pos_embed = nn.Sequential(ops.Linear(channels, hidden), nn.SiLU(), ops.Linear(hidden, channels))
        self.extension = TemporalExtension(channels, extension_frames, ops) if extension_frames else None
        self.time_stack = nn.ModuleList([TemporalTransformerBlock(channels, context_dim, attention, ops)])
        self.time_mixer = Blend()
        self.proj_out = ops.Linear(channels, channels)

    def forward(self, x_TCHW: Tensor, args: UNetArgs) -> Tensor:
        tokens: Tokens = self._tokens(x_TCHW, args), None
        spatial: Tokens = self.transformer_blocks[0](tokens, args.context, args.chunk_bytes)
        tokens = self._add_positions(spatial, x_TCHW.shape[2], args), None
        temporal: Tokens = self.time_stack[0](tokens, args.context[:1], args.chunk_bytes)
        return self._project_out(x_TCHW, spatial, temporal, args)

    def _tokens(self, x_TCHW: Tensor, args: UNetArgs) -> Tensor:
        project = bind(self.proj_in, x_TCHW)

        def tokens(frames: slice) -> Tensor:
            return project(rearrange(normed(self.norm, x_TCHW[frames]), "T C H W -> T (H W) C"))

        return map_chunks(tokens, len(x_TCHW), items_within(args.chunk_bytes, 3 * x_TCHW[:1].nbytes))

    def _add_positions(self, spatial: Tokens, height: int, args: UNetArgs) -> Tensor:
        """Tokens with the position of their frame added, as a new tensor; ExVideo's extension also mixes them."""
        spatial_TLC, shift_C = spatial

        def embed(position_TC: Tensor) -> Tensor:
            position_TC = self.time_pos_embed(position_TC)
            return position_TC if shift_C is None else position_TC + shift_C

        if self.extension is None:
            position_TC = sinusoid(args.frame_ids, spatial_TLC.shape[-1]).to(spatial_TLC.dtype)
            return spatial_TLC + embed(position_TC).to(spatial_TLC.dtype)[:, None]
        x_BCTHW = rearrange(spatial_TLC, "T (H W) C -> 1 C T H W", H=height)
        x_BCTHW = self.extension(x_BCTHW, args.frame_ids, embed, args.chunk_bytes)
        return rearrange(x_BCTHW, "1 C T H W -> T (H W) C")

    def _project_out(self, x_TCHW: Tensor, spatial: Tokens, temporal: Tokens, args: UNetArgs) -> Tensor:
        """x + proj_out of the blended spatial and temporal tokens."""
        height = x_TCHW.shape[2]
        x_RC = rearrange(x_TCHW, "T C H W -> (T H W) C")
        spatial_RC, temporal_RC = spatial[0].flatten(0, 1), temporal[0].flatten(0, 1)
        share = torch.sigmoid(self.time_mixer.mix_factor.float())
        project = bind_shifted(self.proj_out, x_TCHW, _blended(temporal[1], spatial[1], share))
        share = share.to(spatial_RC)

        def projected(rows: slice) -> Tensor:
            return project(torch.lerp(temporal_RC[rows].to(spatial_RC.dtype), spatial_RC[rows], share))

        x_RC = added(x_RC, projected, items_within(args.chunk_bytes, 2 * x_RC[:1].nbytes))
        return rearrange(x_RC, "(T H W) C -> T C H W", T=len(x_TCHW), H=height)


def _blended(temporal_C: Tensor | None, spatial_C: Tensor | None, share: Tensor) -> Tensor | None:
    """The blend of two constants; None is zero."""
    if temporal_C is None and spatial_C is None:
        return None
    temporal_C, spatial_C = (share.new_zeros(()) if each is None else each for each in (temporal_C, spatial_C))
    return temporal_C + share * (spatial_C - temporal_C)
