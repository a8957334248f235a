"""A block of CogVideoX's transformer (arXiv:2408.06072), computed in chunks where no gradients are needed.

Shapes: L tokens, first the text's, then the video's; B clips, C channels, N heads, D channels of a head, E channels of
the time embedding. Tokens are the first axis, so that a chunk of them is contiguous.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ...nn.attention import Attention
from ...nn.chunks import items_within, map_chunks, spans, updated
from ...nn.effective_weights import effective_weights
from ...nn.fused import gelu_product
from ...nn.kernels import are_tried
from ...nn.layer_norm import modulated_layer_norm
from ...nn.layers import Ops
from ...nn.linear import bind, outputs, product
from .config import TransformerConfig
from .rope import apply_rope, norm_rope

Layer = Callable[[Tensor], Tensor]
Rows = Callable[[slice], Tensor]  # computes a span of tokens


@dataclass(frozen=True, kw_only=True)
class TransformerArgs:
    """Inputs of one forward pass that all blocks share."""

    tokens: int  # L, or the largest share of a process (sequence parallelism); decides how many heads make a chunk
    text_tokens: int  # the first of them, of the text
    time_BE: Tensor  # SiLU of the embedded timesteps
    freqs_cis: Tensor  # complex rotary factors, [L, 1 or B, 1, D / 2]
    chunk_bytes: int  # for the temporary tensors of one chunk


RunBlocks = Callable[[Sequence[nn.Module], Tensor, TransformerArgs, int], Tensor]


def run_blocks(blocks: Sequence[nn.Module], x_LBC: Tensor, args: TransformerArgs, first: int) -> Tensor:
    """Run blocks one after the other; the last returns only the tokens from `first` on."""
    for block in blocks:
        x_LBC = block(x_LBC, args, first if block is blocks[-1] else 0)
    return x_LBC


class Block(nn.Module):
    """Joint attention over text and video, then a feed-forward, both with adaLN-Zero modulation by the timestep."""

    def __init__(self, config: TransformerConfig, ops: Ops, attention: Attention) -> None:
        super().__init__()
        self.norm1 = AdaLNZero(config.width, config.time_dim, ops)
        self.attn1 = JointAttention(config.width, config.head_dim, ops, attention)
        self.norm2 = AdaLNZero(config.width, config.time_dim, ops)
        self.ff = FeedForward(config.width, config.hidden, ops)

    def forward(self, x_LBC: Tensor, args: TransformerArgs, first: int = 0) -> Tensor:
        """Updated tokens from `first` on, in place unless gradients are enabled; earlier ones are only attended to."""
        x_LBC = self._attention(x_LBC, args, first)
        return self._feed_forward(x_LBC, args, first)

    def _attention(self, x_LBC: Tensor, args: TransformerArgs, first: int) -> Tensor:
        norm = self.norm1(x_LBC, args)
        out_LBC = self.attn1(lambda rows: norm.modulate(x_LBC[rows], rows.start), len(x_LBC), args, first)
        project = bind(self.attn1.to_out[0], x_LBC)
        kept_LBC = x_LBC[first:]

        def add(rows: slice) -> Tensor:
            return norm.add_gated(kept_LBC[rows], project(out_LBC[rows]), first + rows.start)

        return updated(kept_LBC, add, items_within(args.chunk_bytes, 3 * x_LBC[0].nbytes))

    def _feed_forward(self, x_LBC: Tensor, args: TransformerArgs, first: int) -> Tensor:
        norm, feed = self.norm2(x_LBC, args), self.ff.bind(x_LBC)

        def add(rows: slice) -> Tensor:
            start = first + rows.start
            return norm.add_gated(x_LBC[rows], feed(norm.modulate(x_LBC[rows], start)), start)

        hidden_bytes = 2 * self.ff.hidden * x_LBC.itemsize * x_LBC.shape[1]
        return updated(x_LBC, add, items_within(args.chunk_bytes, hidden_bytes + 3 * x_LBC[0].nbytes))


Modulation = tuple[Tensor, Tensor, Tensor]  # shift, 1 + scale and gate of the text's or the video's tokens, each [B, C]


@dataclass(frozen=True)
class ModulatedNorm:
    """A layer norm and its modulation in one forward pass; `start` is the number of the first token given."""

    norm: Layer
    text_tokens: int
    text: Modulation
    video: Modulation

    def modulate(self, x_LBC: Tensor, start: int) -> Tensor:
        """norm(x) * scale + shift."""
        x_LBC = self.norm(x_LBC)
        segments = self._segments(x_LBC, start)
        return _cat(torch.addcmul(shift, x_LBC[rows], scale) for rows, (shift, scale, _) in segments)

    def add_gated(self, x_LBC: Tensor, y_LBC: Tensor, start: int) -> Tensor:
        """x + gate * y, in place unless gradients are enabled."""
        segments = self._segments(x_LBC, start)
        if torch.is_grad_enabled():
            return _cat(torch.addcmul(x_LBC[rows], gate, y_LBC[rows]) for rows, (_, _, gate) in segments)
        for rows, (_, _, gate) in segments:
            x_LBC[rows].addcmul_(gate, y_LBC[rows])
        return x_LBC

    def _text_end(self, length: int, start: int) -> int:
        """How many of the given tokens are the text's."""
        return min(max(self.text_tokens - start, 0), length)

    def _segments(self, x_LBC: Tensor, start: int) -> Iterator[tuple[slice, Modulation]]:
        """Spans of text and of video tokens, without empty ones."""
        count, text = len(x_LBC), self._text_end(len(x_LBC), start)
        if text:
            yield slice(0, text), self.text
        if text < count:
            yield slice(text, count), self.video


@dataclass(frozen=True)
class FusedModulatedNorm(ModulatedNorm):
    """A `ModulatedNorm` in one step: a factor and a summand, [2, B, C], first of text, then of video."""

    factor_PBC: Tensor
    summand_PBC: Tensor
    eps: float

    def modulate(self, x_LBC: Tensor, start: int) -> Tensor:
        split = self._text_end(len(x_LBC), start)
        return modulated_layer_norm(x_LBC, self.factor_PBC, self.summand_PBC, split, self.eps)


def _cat(tensors: Iterator[Tensor]) -> Tensor:
    first, *others = tensors
    return torch.cat([first, *others]) if others else first


class AdaLNZero(nn.Module):
    """Adaptive layer norm (adaLN-Zero, arXiv:2212.09748): shift, scale and gate of text and video by the timestep."""

    def __init__(self, width: int, time_dim: int, ops: Ops) -> None:
        super().__init__()
        self.linear = ops.Linear(time_dim, 6 * width)
        self.norm = ops.LayerNorm(width, eps=1e-5)

    def forward(self, x_LBC: Tensor, args: TransformerArgs) -> ModulatedNorm:
        """Bind the norm and its modulation to chunks of x."""
        chunks = self.linear(args.time_BE).chunk(6, dim=1)
        video, text = ((shift, 1 + scale, gate) for shift, scale, gate in (chunks[:3], chunks[3:]))
        bound = bind(self.norm, x_LBC), args.text_tokens, text, video
        weight_C, bias_C = (effective_weights(self.norm, x_LBC) if are_tried(x_LBC) else None) or (None, None)
        if weight_C is None or bias_C is None:
            return ModulatedNorm(*bound)
        wide = torch.promote_types(x_LBC.dtype, torch.float32)
        shift_PBC, scale_PBC = (torch.stack([part[index] for part in (text, video)]).to(wide) for index in range(2))
        factor_PBC = scale_PBC * weight_C
        summand_PBC = shift_PBC + scale_PBC * bias_C
        return FusedModulatedNorm(*bound, factor_PBC, summand_PBC, self.norm.eps)


class JointAttention(nn.Module):
    """Attention over text and video tokens, in chunks of heads; only video tokens have rotary positions."""

    def __init__(self, width: int, head_dim: int, ops: Ops, attention: Attention) -> None:
        super().__init__()
        self.heads, self.head_dim = width // head_dim, head_dim
        self.attention = attention
        self.head_multiple = 1  # the heads of a chunk are a multiple of this, so that processes can share them equally
        self.to_q = ops.Linear(width, width)
        self.to_k = ops.Linear(width, width)
        self.to_v = ops.Linear(width, width)
        self.norm_q = ops.LayerNorm(head_dim, eps=1e-6)
        self.norm_k = ops.LayerNorm(head_dim, eps=1e-6)
        self.to_out = nn.Sequential(ops.Linear(width, width))

    def forward(self, normed: Rows, length: int, args: TransformerArgs, first: int) -> Tensor:
        """Attention of the tokens from `first` on to all L = `length` tokens, [L - first, B, C], before `to_out`.

        `normed` computes normed tokens [rows, B, C]. They are kept if half of the budget is enough, else computed again
        for each chunk of heads.
        """
        ropes = [_bind_rope(norm, args) for norm in (self.norm_q, self.norm_k)]
        token_bytes = len(args.time_BE) * self.head_dim * args.time_BE.itemsize  # of one head
        groups = list(self._head_groups(args, items_within(args.chunk_bytes, 4 * args.tokens * token_bytes)))
        budget, normed_bytes = args.chunk_bytes, length * self.heads * token_bytes
        if len(groups) > 1 and 2 * normed_bytes <= budget:  # else each group of heads norms all tokens again
            normed = map_chunks(normed, length, items_within(budget, 3 * self.heads * token_bytes)).__getitem__
            budget -= normed_bytes

        def attend(layers: Sequence[Layer]) -> Tensor:
            def project(rows: slice) -> tuple[Tensor, Tensor, Tensor]:
                x_LBC = normed(rows)
                q, k, v = (rearrange(layer(x_LBC), "L B (N D) -> L B N D", D=self.head_dim) for layer in layers)
                q, k = (rope(x, args.freqs_cis[rows]) for rope, x in zip(ropes, (q, k), strict=True))
                return q, k, v

            # normed; q, k and v, and their copies where no kernel rotates them in place
            copies = 1 + 3 / len(groups) if are_tried(args.time_BE) else 2 + 8 / len(groups)
            row_bytes = copies * self.heads * token_bytes
            q, k, v = _map_qkv_chunks(project, length, items_within(budget, row_bytes))
            q, k, v = (rearrange(x, "L B N D -> B N L D") for x in (q[first:], k, v))
            return rearrange(self.attention(q, k, v), "B N L D -> L B (N D)")

        return attend(groups[0]) if len(groups) == 1 else _cat_channels(attend, groups, self.heads * self.head_dim)

    def _head_groups(self, args: TransformerArgs, size: int) -> Iterator[Sequence[Layer]]:
        """The q, k and v projections of about `size` heads at a time; all heads if the layers' weights are hidden."""
        layers = self.to_q, self.to_k, self.to_v
        weights = [effective_weights(layer, args.time_BE) for layer in layers]
        if None in weights:
            yield layers
            return
        step = self.head_multiple * self.head_dim
        for steps in spans(self.heads // self.head_multiple, max(1, size // self.head_multiple)):
            channels = slice(steps.start * step, steps.stop * step)
            yield [partial(product, outputs(pair, channels)) for pair in weights if pair]


def _bind_rope(norm: nn.Module, args: TransformerArgs) -> Callable[[Tensor, Tensor], Tensor]:
    """Layer norm of each head, then rotary positions, as a function of q or k and the factors; may work in place."""
    weight_D, bias_D = (effective_weights(norm, args.time_BE) if are_tried(args.time_BE) else None) or (None, None)
    if weight_D is None or bias_D is None:
        bound = bind(norm, args.time_BE)
        return lambda x_LBND, freqs_cis: apply_rope(bound(x_LBND), freqs_cis)
    assert isinstance(norm, nn.LayerNorm)
    eps = norm.eps
    return lambda x_LBND, freqs_cis: norm_rope(x_LBND, weight_D, bias_D, freqs_cis, eps)


def _map_qkv_chunks(project: Callable[[slice], Sequence[Tensor]], length: int, size: int) -> Sequence[Tensor]:
    """q, k and v of all tokens, computed in chunks of `size` tokens."""
    if size >= length or torch.is_grad_enabled():
        return project(slice(0, length))
    out: list[Tensor] = []
    for rows in spans(length, size):
        chunks = project(rows)
        out = out or [chunk.new_empty(length, *chunk.shape[1:]) for chunk in chunks]
        for whole, chunk in zip(out, chunks, strict=True):
            whole[rows] = chunk
        del chunks, chunk  # free them before the next are computed
    return out


def _cat_channels(
    attend: Callable[[Sequence[Layer]], Tensor], groups: Sequence[Sequence[Layer]], channels: int
) -> Tensor:
    """Concatenate the result for each group of heads along the last axis, holding one result at a time."""
    out, done = None, 0
    for layers in groups:
        chunk = attend(layers)
        out = chunk.new_empty(*chunk.shape[:-1], channels) if out is None else out
        out[..., done : done + chunk.shape[-1]] = chunk
        done += chunk.shape[-1]
        del chunk
    assert out is not None
    return out


class FeedForward(nn.Module):
    """C -> 4C -> C."""

    def __init__(self, width: int, hidden: int, ops: Ops) -> None:
        super().__init__()
        self.hidden = hidden
        # index 1 was a dropout in the published code, so the second layer is number 2
        first = nn.ModuleDict({"proj": ops.Linear(width, hidden)})
        self.net = nn.Sequential(first, nn.Identity(), ops.Linear(hidden, width))

    def bind(self, like: Tensor) -> Layer:
        """The feed-forward as a function of chunks of tokens."""
        first, last = (self.net.get_submodule(name) for name in ("0.proj", "2"))
        weights, outer = effective_weights(first, like) if like.is_cuda else None, bind(last, like)
        if weights is not None:
            return lambda x_LBC: outer(gelu_product(x_LBC, *weights))
        inner = bind(first, like)
        return lambda x_LBC: outer(F.gelu(inner(x_LBC), approximate="tanh"))
