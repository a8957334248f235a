"""The temporal decoder of SVD's autoencoder (arXiv:2311.15127), in chunks of frames, and of rows over time.

A feature map is a list of chunks of frames [T, C, H, W], each freed once its successor is computed: at the highest
resolution, two whole maps would be most of the memory.
Parameter names are those of the sgm code base. Shapes: T frames, C channels, H and W height and width.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from ...nn.chunks import CHUNK_BYTES, items_within, map_chunks, spans
from ...nn.conv3d import bind_conv3d_and_bias, conv3d
from ...nn.convolution import channels_last_on_gpu
from ...nn.effective_weights import Weights, effective_weights
from ...nn.fused import added_residual, scaled_silu, scaled_silu_into
from ...nn.group_norm import affine, norm_silu, row_chunks
from ...nn.layers import Ops, group_norm
from ...nn.upsample import doubled_conv
from .blocks import Upsample, frames_first
from .config import VAEConfig
from .vae_blocks import Middle, SpatialBlock, norm_conv

_KEPT_CHUNKS = 4  # of a temporal block's first convolution; the others are recomputed for the second


class TemporalDecoder(nn.Module):
    """Latents of a window of frames to pixels."""

    def __init__(self, config: VAEConfig, ops: Ops) -> None:
        super().__init__()
        channels = config.widths[-1]
        self.conv_in = ops.Conv2d(config.latent_channels, channels, kernel_size=3, padding=1)
        self.mid = Middle(VideoResBlock, channels, ops)
        stages = []
        for level, width in reversed(list(enumerate(config.widths))):
            stages.append(Stage(channels, width, config.blocks_per_level + 1, level > 0, ops))
            channels = width
        self.up = nn.ModuleList(reversed(stages))  # numbered from the highest resolution, run from the lowest
        self.norm_out = group_norm(channels, ops)
        self.conv_out = ops.Conv2d(channels, 3, kernel_size=3, padding=1)
        # a child of the convolution before it in the published file's names
        self.conv_out.time_mix_conv = ops.Conv3d(3, 3, kernel_size=(3, 1, 1), padding=(1, 0, 0))

    def forward(self, z_TCHW: Tensor, chunk_bytes: int = CHUNK_BYTES) -> Tensor:
        """[T, 4, h, w] to [T, 3, 8 h, 8 w]; `chunk_bytes` is for the temporary tensors of one chunk."""
        if torch.is_grad_enabled():
            chunk_bytes = sys.maxsize
        mid, conv_in = self.mid, self.conv_in
        (x_TCHW,) = mid.block_1([conv_in(channels_last_on_gpu(z_TCHW))], chunk_bytes)
        chunks: Iterable[Tensor] = mid.block_2([mid.attn_1(x_TCHW, chunk_bytes)], chunk_bytes)
        del x_TCHW
        for stage in reversed(self.up):
            chunks = stage(chunks, chunk_bytes)
        pixels_TCHW = torch.cat([self._to_pixels(x_TCHW, chunk_bytes) for x_TCHW in chunks])
        return conv3d(self.conv_out.time_mix_conv, _as_clip(pixels_TCHW))[0].transpose(0, 1)

    def _to_pixels(self, x_TCHW: Tensor, chunk_bytes: int) -> Tensor:
        rows, pixels, bias = norm_conv(self.norm_out, self.conv_out, x_TCHW, chunk_bytes)
        out_TCHW = frames_first(map_chunks(pixels, x_TCHW.shape[2], rows))
        return out_TCHW if bias is None else out_TCHW.add_(bias[:, None, None])


class Stage(nn.Module):
    """Residual blocks of one resolution, then upsampling, which runs lazily as the next stage consumes chunks."""

    def __init__(self, channels: int, out_channels: int, depth: int, upsamples: bool, ops: Ops) -> None:
        super().__init__()
        inputs = [channels] + [out_channels] * (depth - 1)
        self.block = nn.ModuleList(VideoResBlock(channels, out_channels, ops) for channels in inputs)
        self.upsample = Upsample(out_channels, ops) if upsamples else None

    def forward(self, chunks: Iterable[Tensor], chunk_bytes: int) -> Iterator[Tensor]:
        for block in self.block:
            chunks = block(chunks, chunk_bytes)
        assert isinstance(chunks, list), "a stage has blocks"
        upsample = doubled_conv(self.upsample.conv, chunks[0]) if self.upsample else None
        while chunks:
            chunk_TCHW = chunks.pop(0)
            if upsample is None:
                yield chunk_TCHW
                continue
            # in the next block: input, scaled in float32, activated
            frame_bytes = 4 * chunk_TCHW[0].numel() * (4 + 2 * chunk_TCHW.element_size())
            for x_TCHW in chunk_TCHW.split(min(len(chunk_TCHW), items_within(chunk_bytes, frame_bytes))):
                yield upsample(x_TCHW)


class VideoResBlock(SpatialBlock):
    """Spatial residual block, then a temporal one with a learned weight."""

    def __init__(self, channels: int, out_channels: int, ops: Ops) -> None:
        super().__init__(channels, out_channels, ops)
        self.time_stack = TimeBlock(out_channels, ops)
        self.mix_factor = nn.Parameter(torch.zeros(1))

    def forward(self, chunks: Iterable[Tensor], chunk_bytes: int) -> list[Tensor]:
        """In place on the chunks if the number of channels does not change, unless gradients are enabled."""
        spatial = [self.spatial(x_TCHW, chunk_bytes) for x_TCHW in chunks]
        # (1 - s) * x + s * (x + residual) = x + s * residual
        share = torch.sigmoid(self.mix_factor.float()).to(spatial[0])
        return self.time_stack(spatial, share, chunk_bytes)


class TimeBlock(nn.Module):
    """Residual of two convolutions over three neighbouring frames; the norms span all frames."""

    def __init__(self, channels: int, ops: Ops) -> None:
        super().__init__()
        norm = partial(group_norm, channels, ops, eps=1e-5)
        conv = partial(ops.Conv3d, channels, channels, kernel_size=(3, 1, 1), padding=(1, 0, 0))
        self.in_layers = nn.Sequential(norm(), nn.SiLU(), conv())
        # index 2 was a dropout in the published code
        self.out_layers = nn.Sequential(norm(), nn.SiLU(), nn.Identity(), conv())

    def forward(self, chunks: list[Tensor], share: Tensor, chunk_bytes: int) -> list[Tensor]:
        """x + share * residual; in place on the chunks, unless gradients are enabled."""
        if torch.is_grad_enabled():
            (x_TCHW,) = chunks
            residual_1CTHW, _ = self._residual(_as_clip(x_TCHW))
            return [torch.addcmul(x_TCHW, share, residual_1CTHW[0].transpose(0, 1))]
        frames, (channels, height, width) = sum(map(len, chunks)), chunks[0].shape[1:]
        # concatenated, scaled in float32, activated, result
        rows = items_within(chunk_bytes, frames * channels * width * (4 + 3 * chunks[0].element_size()))
        weights = [effective_weights(layers[0], chunks[0]) for layers in (self.in_layers, self.out_layers)]
        known = [pair for pair in weights if pair is not None]
        if rows >= height or len(known) < len(weights):
            _add_share(chunks, share, *self._residual(_gather(chunks)))
            return chunks
        for span, residual_1CTHW, bias in self._residual_by_rows(chunks, known, rows, chunk_bytes):
            _add_share([x_TCHW[:, :, span] for x_TCHW in chunks], share, residual_1CTHW, bias)
        return chunks

    def _bound(self, like: Tensor) -> Iterator[tuple[Callable[[Tensor], Tensor], Tensor | None]]:
        """The two convolutions, and the biases that they leave out."""
        return (bind_conv3d_and_bias(layers[-1], like) for layers in (self.in_layers, self.out_layers))

    def _residual(self, x_1CTHW: Tensor) -> tuple[Tensor, Tensor | None]:
        """The residual, and the bias that its convolution left out."""
        (first, first_bias), (second, bias) = self._bound(x_1CTHW)
        h_1CTHW = first(norm_silu(self.in_layers[0], x_1CTHW))
        shift_1C = None if first_bias is None else first_bias[None]
        return second(norm_silu(self.out_layers[0], h_1CTHW, shift_1C)), bias

    def _residual_by_rows(
        self, chunks: list[Tensor], weights: list[Weights], rows: int, chunk_bytes: int
    ) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
        """Residual in spans of rows, [1, C, T, rows, W], and the bias that its convolution left out.

        The second norm's statistics need the whole first result; `_KEPT_CHUNKS` of it are kept, the rest is recomputed.
        """
        scale = affine(self.in_layers[0], weights[0], row_chunks(chunks, chunk_bytes), axes=3)
        (convolve, first_bias), (convolve_again, bias) = self._bound(chunks[0])
        kept: dict[int, Tensor] = {}

        def first(span: slice) -> Tensor:
            return convolve(_scaled_clip([x_TCHW[:, :, span] for x_TCHW in chunks], scale))

        def keep_some() -> Iterator[Tensor]:
            for span in spans(chunks[0].shape[2], rows):
                h_1CTHW = first(span)
                if (len(kept) + 1) * h_1CTHW.nbytes <= _KEPT_CHUNKS * chunk_bytes:
                    kept[span.start] = h_1CTHW
                yield h_1CTHW

        second_scale = affine(self.out_layers[0], weights[1], keep_some(), axes=3, shift_C=first_bias)
        for span in spans(chunks[0].shape[2], rows):
            h_1CTHW = kept.pop(span.start) if span.start in kept else first(span)
            yield span, convolve_again(scaled_silu(h_1CTHW, *second_scale)), bias


def _as_clip(x_TCHW: Tensor) -> Tensor:
    """View as [1, C, T, H, W]."""
    return x_TCHW.transpose(0, 1)[None]


def _gather(chunks: list[Tensor]) -> Tensor:
    """Concatenate chunks of frames to [1, C, T, H, W]."""
    return _as_clip(torch.cat(chunks) if len(chunks) > 1 else chunks[0])


def _scaled_clip(chunks: list[Tensor], scale: tuple[Tensor, Tensor]) -> Tensor:
    """SiLU of the scaled chunks of frames, concatenated to [1, C, T, H, W]."""
    if len(chunks) == 1 or not chunks[0].is_cuda:
        return scaled_silu(_gather(chunks), *scale)
    shape = sum(map(len, chunks)), *chunks[0].shape[1:]
    x_TCHW = torch.empty(shape, dtype=chunks[0].dtype, device=chunks[0].device, memory_format=torch.channels_last)
    for out_TCHW, chunk_TCHW in zip(x_TCHW.split([*map(len, chunks)]), chunks, strict=True):
        scaled_silu_into(_as_clip(out_TCHW), _as_clip(chunk_TCHW), *scale)
    return _as_clip(x_TCHW)


def _add_share(chunks: list[Tensor], share: Tensor, residual_1CTHW: Tensor, bias_C: Tensor | None) -> None:
    residuals = residual_1CTHW[0].transpose(0, 1).split([len(x) for x in chunks])
    for x_TCHW, residual_TCHW in zip(chunks, residuals, strict=True):
        if bias_C is None:
            x_TCHW.addcmul_(share, residual_TCHW)
        else:
            added_residual(x_TCHW, bias_C, share, residual_TCHW)
