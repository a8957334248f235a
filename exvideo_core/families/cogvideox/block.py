"""A block of CogVideoX's transformer (arXiv:2408.06072), computed in pieces where no gradients are wanted.

Shapes: L tokens, first the text's, then the video's; B clips, C channels, N heads, D channels of a head, E channels of
the time embedding. Tokens are the first axis, so that some of them are one piece of memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ...nn.attention import Attention
from ...nn.chunks import items_within, map_chunks, spans
from ...nn.effective_weights import effective_weights
from ...nn.layers import Ops
from ...nn.linear import bind, outputs, product
from .config import TransformerConfig
from .rope import apply_rope

T = TypeVar("T")
Layer = Callable[[Tensor], Tensor]
Rows = Callable[[slice], Tensor]  # some of the tokens


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What all blocks are told in one call.

    Attributes:
        tokens: of text and video, or of the process with most of them; decides how many heads are computed at a time.
        words: those of the text.
        time_BE: embedded timesteps, activated.
        freqs_cis: complex factors of the rotary positions, [L, 1 or B, 1, D / 2].
        chunk_bytes: for the temporary tensors of one piece.
    """

    tokens: int
    words: int
    time_BE: Tensor
    freqs_cis: Tensor
    chunk_bytes: int


Run = Callable[[Sequence[nn.Module], Tensor, Conditions, int], Tensor]


def in_turn(blocks: Sequence[nn.Module], x_LBC: Tensor, on: Conditions, first: int) -> Tensor:
    """What blocks make of tokens, one after the other; of the last one's, those from `first` on."""
    for block in blocks[:-1]:
        x_LBC = block(x_LBC, on)
    for block in blocks[-1:]:
        x_LBC = block(x_LBC, on, first)
    return x_LBC


class Block(nn.Module):
    """Attention over text and video together, then a feed-forward; both gated by the timestep."""

    def __init__(self, config: TransformerConfig, ops: Ops, attention: Attention) -> None:
        super().__init__()
        self.norm1 = GatedNorm(config.width, config.time_dim, ops)
        self.attn1 = JointAttention(config.width, config.head_dim, ops, attention)
        self.norm2 = GatedNorm(config.width, config.time_dim, ops)
        self.ff = FeedForward(config.width, config.hidden, ops)

    def forward(self, x_LBC: Tensor, on: Conditions, first: int = 0) -> Tensor:
        """New tokens from `first` on, which without gradients are written over the old ones.

        Those before are only attended to: nothing asks for what becomes of them.
        """
        x_LBC = self._attended(x_LBC, on, first)
        return self._fed(x_LBC, on, first)

    def _attended(self, x_LBC: Tensor, on: Conditions, first: int) -> Tensor:
        norm = self.norm1(x_LBC, on)
        out_LBC = self.attn1(lambda rows: norm.shifted(x_LBC[rows], rows.start), len(x_LBC), on, first)
        project = bind(self.attn1.to_out[0], x_LBC)
        asked_LBC = x_LBC[first:]

        def part(rows: slice) -> Tensor:
            return norm.gated(asked_LBC[rows], project(out_LBC[rows]), first + rows.start)

        size = items_within(on.chunk_bytes, 3 * x_LBC[0].nbytes)
        return map_chunks(part, len(asked_LBC), size, asked_LBC)

    def _fed(self, x_LBC: Tensor, on: Conditions, first: int) -> Tensor:
        norm, feed = self.norm2(x_LBC, on), self.ff.bind(x_LBC)

        def part(rows: slice) -> Tensor:
            start = first + rows.start
            return norm.gated(x_LBC[rows], feed(norm.shifted(x_LBC[rows], start)), start)

        hidden = 2 * self.ff.hidden * x_LBC.itemsize * x_LBC.shape[1]
        size = items_within(on.chunk_bytes, hidden + 3 * x_LBC[0].nbytes)
        return map_chunks(part, len(x_LBC), size, x_LBC)


@dataclass(frozen=True)
class Modulation:
    """Of one kind of token, each [B, C]."""

    shift: Tensor
    scale: Tensor
    gate: Tensor


@dataclass(frozen=True)
class Modulated:
    """A norm and the modulations of one call."""

    norm: Layer
    words: int
    text: Modulation
    video: Modulation

    def shifted(self, x_LBC: Tensor, start: int) -> Tensor:
        """Normed tokens, scaled and shifted; the first is token number `start`."""
        x_LBC = self.norm(x_LBC)
        return _joined(torch.addcmul(kind.shift, x_LBC[rows], kind.scale) for rows, kind in self._kinds(x_LBC, start))

    def gated(self, x_LBC: Tensor, y_LBC: Tensor, start: int) -> Tensor:
        """x + gate * y."""
        return _joined(torch.addcmul(x_LBC[rows], kind.gate, y_LBC[rows]) for rows, kind in self._kinds(x_LBC, start))

    def _kinds(self, x_LBC: Tensor, start: int) -> Iterator[tuple[slice, Modulation]]:
        """Which of these tokens are text, and which are video, as far as there are any."""
        count = len(x_LBC)
        words = min(max(self.words - start, 0), count)
        if words:
            yield slice(0, words), self.text
        if words < count:
            yield slice(words, count), self.video


def _joined(parts: Iterator[Tensor]) -> Tensor:
    first, *others = parts
    return torch.cat([first, *others]) if others else first


class GatedNorm(nn.Module):
    """One norm for text and video, with shift, scale and gate of each from the timestep."""

    def __init__(self, width: int, time_dim: int, ops: Ops) -> None:
        super().__init__()
        self.linear = ops.Linear(time_dim, 6 * width)
        self.norm = ops.LayerNorm(width, eps=1e-5)

    def forward(self, x_LBC: Tensor, on: Conditions) -> Modulated:
        """For pieces of x."""
        video_shift, video_scale, video_gate, text_shift, text_scale, text_gate = self.linear(on.time_BE).chunk(
            6, dim=1
        )
        return Modulated(
            norm=bind(self.norm, x_LBC),
            words=on.words,
            text=Modulation(text_shift, 1 + text_scale, text_gate),
            video=Modulation(video_shift, 1 + video_scale, video_gate),
        )


class JointAttention(nn.Module):
    """Attention of all tokens to all, some heads at a time; only tokens of the video have positions.

    Attributes:
        attention: see `exvideo_core.nn.attention`.
        heads_step: heads are taken in multiples of so many.
    """

    def __init__(self, width: int, head_dim: int, ops: Ops, attention: Attention) -> None:
        super().__init__()
        self.heads, self.head_dim = width // head_dim, head_dim
        self.attention, self.heads_step = attention, 1
        self.to_q = ops.Linear(width, width)
        self.to_k = ops.Linear(width, width)
        self.to_v = ops.Linear(width, width)
        self.norm_q = ops.LayerNorm(head_dim, eps=1e-6)
        self.norm_k = ops.LayerNorm(head_dim, eps=1e-6)
        self.to_out = nn.Sequential(ops.Linear(width, width))

    def forward(self, tokens: Rows, length: int, on: Conditions, first: int) -> Tensor:
        """What tokens from `first` on gather from all, [L - first, B, C], before `to_out`.

        Args:
            tokens: gives them, normed; asked for each of them once for every group of heads.
            length: how many there are.
            on: see `Conditions`.
            first: number of a token.
        """
        norms = bind(self.norm_q, on.time_BE), bind(self.norm_k, on.time_BE)
        token_bytes = len(on.time_BE) * self.head_dim * on.time_BE.itemsize  # of one head
        groups = list(self._groups(on, items_within(on.chunk_bytes, 4 * on.tokens * token_bytes)))

        def part(layers: Sequence[Layer]) -> Tensor:
            def placed(rows: slice) -> tuple[Tensor, Tensor, Tensor]:
                x_LBC = tokens(rows)
                q, k, v = (rearrange(layer(x_LBC), "L B (N D) -> L B N D", D=self.head_dim) for layer in layers)
                q, k = (apply_rope(norm(x), on.freqs_cis[rows]) for norm, x in zip(norms, (q, k), strict=True))
                return q, k, v

            row_bytes = (2 + 8 / len(groups)) * self.heads * token_bytes
            q, k, v = _whole(placed, length, items_within(on.chunk_bytes, row_bytes))
            q, k, v = (rearrange(x, "L B N D -> B N L D") for x in (q[first:], k, v))
            return rearrange(self.attention(q, k, v), "B N L D -> L B (N D)")

        return part(groups[0]) if len(groups) == 1 else _side_by_side(part, groups, self.heads * self.head_dim)

    def _groups(self, on: Conditions, size: int) -> Iterator[Sequence[Layer]]:
        """The layers to queries, keys and values of about `size` heads after others, if they can be cut."""
        layers = self.to_q, self.to_k, self.to_v
        weights = [effective_weights(layer, on.time_BE) for layer in layers]
        if None in weights:
            yield layers
            return
        step = self.heads_step * self.head_dim
        for steps in spans(self.heads // self.heads_step, max(1, size // self.heads_step)):
            channels = slice(steps.start * step, steps.stop * step)
            yield [partial(product, outputs(pair, channels)) for pair in weights if pair]


def _whole(part: Callable[[slice], Sequence[Tensor]], length: int, size: int) -> Sequence[Tensor]:
    """Tensors of all tokens, of which `part` gives some."""
    if size >= length or torch.is_grad_enabled():
        return part(slice(0, length))
    wholes: list[Tensor] = []
    for rows in spans(length, size):
        results = part(rows)
        wholes = wholes or [result.new_empty(length, *result.shape[1:]) for result in results]
        for whole, result in zip(wholes, results, strict=True):
            whole[rows] = result
        del results, result  # else they would live on while the next are computed
    return wholes


def _side_by_side(part: Callable[[T], Tensor], items: Sequence[T], channels: int) -> Tensor:
    """What `part` gives for every item, one beside the other in the last axis."""
    whole, done = None, 0
    for item in items:
        result = part(item)
        whole = result.new_empty(*result.shape[:-1], channels) if whole is None else whole
        whole[..., done : done + result.shape[-1]] = result
        done += result.shape[-1]
        del result
    assert whole is not None
    return whole


class FeedForward(nn.Module):
    """C -> 4C -> C."""

    def __init__(self, width: int, hidden: int, ops: Ops) -> None:
        super().__init__()
        self.hidden = hidden
        # index 1 was a dropout in the published code, so the names go on with 2
        self.net = nn.Sequential(Projection(width, hidden, ops), nn.Identity(), ops.Linear(hidden, width))

    def bind(self, like: Tensor) -> Layer:
        """As a function that is called for many pieces."""
        into, out = (bind(self.net.get_submodule(name), like) for name in ("0.proj", "2"))
        return lambda x_LBC: out(F.gelu(into(x_LBC), approximate="tanh"))


class Projection(nn.Module):
    """Only a name around a layer."""

    def __init__(self, width: int, hidden: int, ops: Ops) -> None:
        super().__init__()
        self.proj = ops.Linear(width, hidden)
