"""The temporal decoder of SVD's autoencoder (arXiv:2311.15127): few frames at once, few rows over time.

A map of all frames is a list of tensors of some frames each, so that each is freed when what follows from it is there:
on the finest level two whole maps would be most of the memory.
Parameter names are those of the sgm code base. Shapes: T frames, C channels, H and W height and width.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from ...nn.chunks import CHUNK_BYTES, items_within, map_chunks, spans
from ...nn.conv3d import bind_conv3d, conv3d
from ...nn.effective_weights import Weights, effective_weights
from ...nn.fused import scaled_silu
from ...nn.group_norm import affine, norm_silu
from ...nn.layers import Ops, norm_groups
from ...nn.upsample import doubled_conv
from .blocks import Upsample, frames_first
from .config import VAEConfig
from .vae_blocks import FrameBlock, SelfAttention, group_norm, laid_out, norm_conv, strips

_KEPT_CHUNKS = 4  # of what a temporal block computes first; more is computed again where it is needed


class TemporalDecoder(nn.Module):
    """Latents of neighbouring frames to pixels."""

    def __init__(self, config: VAEConfig, ops: Ops) -> None:
        super().__init__()
        channels = config.widths[-1]
        self.conv_in = ops.Conv2d(config.latent_channels, channels, kernel_size=3, padding=1)
        self.mid = Middle(channels, ops)
        stages = []
        for level, width in reversed(list(enumerate(config.widths))):
            stages.append(Stage(channels, width, config.blocks_per_level + 1, level > 0, ops))
            channels = width
        self.up = nn.ModuleList(reversed(stages))  # named from the finest level, run from the coarsest
        self.norm_out = group_norm(channels, ops)
        self.conv_out = ops.Conv2d(channels, 3, kernel_size=3, padding=1)
        # named as a child of the convolution before it in the published file
        self.conv_out.time_mix_conv = ops.Conv3d(3, 3, kernel_size=(3, 1, 1), padding=(1, 0, 0))

    def forward(self, z_TCHW: Tensor, chunk_bytes: int = CHUNK_BYTES) -> Tensor:
        """[T, 4, h, w] to [T, 3, 8 h, 8 w]; the budget is for the temporary tensors of one piece."""
        if torch.is_grad_enabled():
            chunk_bytes = sys.maxsize
        parts: Iterable[Tensor] = self.mid(self.conv_in(laid_out(z_TCHW)), chunk_bytes)
        for stage in reversed(self.up):
            parts = stage(parts, chunk_bytes)
        pixels_TCHW = torch.cat([self._to_pixels(part_TCHW, chunk_bytes) for part_TCHW in parts])
        return conv3d(self.conv_out.time_mix_conv, _as_clip(pixels_TCHW))[0].transpose(0, 1)

    def _to_pixels(self, x_TCHW: Tensor, chunk_bytes: int) -> Tensor:
        rows, pixels = norm_conv(self.norm_out, self.conv_out, x_TCHW, chunk_bytes)
        return frames_first(map_chunks(pixels, x_TCHW.shape[2], rows))


class Middle(nn.Module):
    """Attention between two blocks, on the coarsest level."""

    def __init__(self, channels: int, ops: Ops) -> None:
        super().__init__()
        self.block_1 = VideoResBlock(channels, channels, ops)
        self.attn_1 = SelfAttention(channels, ops)
        self.block_2 = VideoResBlock(channels, channels, ops)

    def forward(self, x_TCHW: Tensor, chunk_bytes: int) -> list[Tensor]:
        (x_TCHW,) = self.block_1([x_TCHW], chunk_bytes)
        return self.block_2([self.attn_1(x_TCHW, chunk_bytes)], chunk_bytes)


class Stage(nn.Module):
    """Blocks of one level, then the step to the next, which is taken whenever that asks for more frames."""

    def __init__(self, channels: int, out_channels: int, depth: int, is_doubled: bool, ops: Ops) -> None:
        super().__init__()
        inputs = [channels] + [out_channels] * (depth - 1)
        self.block = nn.ModuleList(VideoResBlock(channels, out_channels, ops) for channels in inputs)
        self.upsample = Upsample(out_channels, ops) if is_doubled else None

    def forward(self, parts: Iterable[Tensor], chunk_bytes: int) -> Iterator[Tensor]:
        for block in self.block:
            parts = block(parts, chunk_bytes)
        assert isinstance(parts, list), "a stage has blocks"
        grow = doubled_conv(self.upsample.conv, parts[0]) if self.upsample else None
        while parts:
            part_TCHW = parts.pop(0)
            if grow is None:
                yield part_TCHW
                continue
            # in the next block: itself, scaled in float32, activated
            frame_bytes = 4 * part_TCHW[0].numel() * (4 + 2 * part_TCHW.element_size())
            for x_TCHW in part_TCHW.split(min(len(part_TCHW), items_within(chunk_bytes, frame_bytes))):
                yield grow(x_TCHW)


class VideoResBlock(FrameBlock):
    """Two convolutions per frame, followed by their twin over time, whose share is learned."""

    def __init__(self, channels: int, out_channels: int, ops: Ops) -> None:
        super().__init__(channels, out_channels, ops)
        self.time_stack = TimeBlock(out_channels, ops)
        self.mix_factor = nn.Parameter(torch.zeros(1))

    def forward(self, parts: Iterable[Tensor], chunk_bytes: int) -> list[Tensor]:
        """In the parts themselves where the channels stay as many, unless gradients are wanted."""
        spatial = [self.per_frame(part_TCHW, chunk_bytes) for part_TCHW in parts]
        # mean of that and of that plus a residual: so much of the residual
        share = torch.sigmoid(self.mix_factor.float()).to(spatial[0])
        return self.time_stack(spatial, share, chunk_bytes)


class TimeBlock(nn.Module):
    """Two convolutions over three neighbouring frames; the norms take in all frames."""

    def __init__(self, channels: int, ops: Ops) -> None:
        super().__init__()
        norm = partial(ops.GroupNorm, norm_groups(channels), channels, eps=1e-5)
        conv = partial(ops.Conv3d, channels, channels, kernel_size=(3, 1, 1), padding=(1, 0, 0))
        self.in_layers = nn.Sequential(norm(), nn.SiLU(), conv())
        # index 2 was a dropout in the published code
        self.out_layers = nn.Sequential(norm(), nn.SiLU(), nn.Identity(), conv())

    def forward(self, parts: list[Tensor], share: Tensor, chunk_bytes: int) -> list[Tensor]:
        """The parts with a share of the residual; in themselves, unless gradients are wanted."""
        if torch.is_grad_enabled():
            (x_TCHW,) = parts
            return [torch.addcmul(x_TCHW, share, self._residual(_as_clip(x_TCHW))[0].transpose(0, 1))]
        frames, (channels, height, width) = sum(map(len, parts)), parts[0].shape[1:]
        # gathered, scaled in float32, activated, result
        rows = items_within(chunk_bytes, frames * channels * width * (4 + 3 * parts[0].element_size()))
        weights = [effective_weights(layers[0], parts[0]) for layers in (self.in_layers, self.out_layers)]
        known = [pair for pair in weights if pair is not None]
        if rows >= height or len(known) < len(weights):
            _add_share(parts, share, self._residual(_gather(parts)))
            return parts
        for span, residual_1CTHW in self._residual_by_rows(parts, known, rows, chunk_bytes):
            _add_share([part_TCHW[:, :, span] for part_TCHW in parts], share, residual_1CTHW)
        return parts

    def _residual(self, x_1CTHW: Tensor) -> Tensor:
        h_1CTHW = conv3d(self.in_layers[-1], norm_silu(self.in_layers[0], x_1CTHW))
        return conv3d(self.out_layers[-1], norm_silu(self.out_layers[0], h_1CTHW))

    def _residual_by_rows(
        self, parts: list[Tensor], weights: list[Weights], rows: int, chunk_bytes: int
    ) -> Iterator[tuple[slice, Tensor]]:
        """The second norm needs the first result whole, of which not all is kept until it is needed again."""
        scale = _per_channel(*affine(self.in_layers[0], weights[0], strips(parts, chunk_bytes)))
        convolve, convolve_again = (bind_conv3d(layers[-1], parts[0]) for layers in (self.in_layers, self.out_layers))
        kept: dict[int, Tensor] = {}

        def first(span: slice) -> Tensor:
            x_1CTHW = _gather([part_TCHW[:, :, span] for part_TCHW in parts])
            return convolve(scaled_silu(x_1CTHW, *scale))

        def keep_some() -> Iterator[Tensor]:
            for span in spans(parts[0].shape[2], rows):
                h_1CTHW = first(span)
                if (len(kept) + 1) * h_1CTHW.nbytes <= _KEPT_CHUNKS * chunk_bytes:
                    kept[span.start] = h_1CTHW
                yield h_1CTHW

        second_scale = _per_channel(*affine(self.out_layers[0], weights[1], keep_some()))
        for span in spans(parts[0].shape[2], rows):
            h_1CTHW = kept.pop(span.start) if span.start in kept else first(span)
            yield span, convolve_again(scaled_silu(h_1CTHW, *second_scale))


def _as_clip(x_TCHW: Tensor) -> Tensor:
    """[1, C, T, H, W], in the same memory."""
    return x_TCHW.transpose(0, 1)[None]


def _gather(parts: list[Tensor]) -> Tensor:
    """All frames, [1, C, T, H, W]."""
    return _as_clip(torch.cat(parts) if len(parts) > 1 else parts[0])


def _add_share(parts: list[Tensor], share: Tensor, residual_1CTHW: Tensor) -> None:
    residuals = residual_1CTHW[0].transpose(0, 1).split([len(part) for part in parts])
    for part_TCHW, residual_TCHW in zip(parts, residuals, strict=True):
        part_TCHW.addcmul_(share, residual_TCHW)


def _per_channel(factor_C: Tensor, summand_C: Tensor) -> tuple[Tensor, Tensor]:
    return factor_C[:, None, None, None], summand_C[:, None, None, None]
