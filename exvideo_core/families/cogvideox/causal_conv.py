"""Causal convolutions over time with a cache of past frames, and the blocks of CogVideoX's autoencoder made of them.

A clip is processed in temporal chunks (`vae.temporal_chunks`). To bound memory, a feature map within one of them is a
list of smaller chunks of frames [B, C, F, H, W], each freed once its successor is computed.
Shapes: B clips, C channels, F frames, H W height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ...nn.chunks import items_within, plus
from ...nn.conv3d import AfterPast, bind_after_past, bind_conv3d, bind_conv3d_of_frames
from ...nn.convolution import bind_conv
from ...nn.layers import Ops, group_norm
from ...nn.upsample import doubled_conv
from .norms import LatentNorm, activation

# The last two input frames of each convolution, for the next temporal chunk; empty at the start of a clip.
Past = dict[nn.Module, tuple[Tensor, Tensor]]


class CausalConv3d(nn.Module):
    """3x3x3 convolution over the current frame and the two before it; the first frame is repeated as padding."""

    def __init__(self, channels: int, out_channels: int, ops: Ops) -> None:
        super().__init__()
        self.conv = ops.Conv3d(channels, out_channels, kernel_size=3, padding=(0, 1, 1))

    def forward(self, x_BCFHW: Tensor, past: Past) -> Tensor:
        return self.bind(x_BCFHW, past)(x_BCFHW)

    def bind(self, like: Tensor, past: Past) -> Callable[..., Tensor]:
        """The convolution as a function of consecutive chunks of frames, and of a map that it is added to, if any.

        The sum is in place unless gradients are enabled.
        """
        convolve = bind_after_past(self.conv, like) or self._bind_frames(like)

        def convolve_next(x_BCFHW: Tensor, onto_BCFHW: Tensor | None = None) -> Tensor:
            frames = x_BCFHW.split(1, dim=2)
            before = past.get(self, (frames[0], frames[0]))
            *_, last_but_one, last = before + frames
            past[self] = _owned(last_but_one), _owned(last)
            return convolve(x_BCFHW, before, onto_BCFHW)

        return convolve_next

    def _bind_frames(self, like: Tensor) -> AfterPast:
        """The convolution where frames are not a batch: on other devices than GPUs, and for several clips."""
        of_frames = bind_conv3d_of_frames(self.conv, like)

        def convolve(x_BCFHW: Tensor, past: tuple[Tensor, Tensor], onto_BCFHW: Tensor | None) -> Tensor:
            out_BCFHW = of_frames(past + x_BCFHW.split(1, dim=2))
            return out_BCFHW if onto_BCFHW is None else plus(onto_BCFHW, out_BCFHW)

        return convolve


def _owned(frame: Tensor) -> Tensor:
    """Copy a view, so that it does not keep the memory of the other frames alive."""
    return frame if frame.untyped_storage().nbytes() == frame.nbytes else frame.clone()


def split_frames(chunk_bytes: int, x_BCFHW: Tensor) -> tuple[Tensor, ...]:
    """Split into chunks of frames whose normed copies fit the budget."""
    # scaled in float32, activated, result
    frame_bytes = x_BCFHW[:, :, 0].numel() * (4 + 2 * x_BCFHW.element_size())
    return x_BCFHW.split(min(x_BCFHW.shape[2], items_within(chunk_bytes, frame_bytes)), dim=2)


def pop_chunks(chunks: list[Tensor]) -> Iterator[tuple[slice, Tensor]]:
    """Remove chunks from the list one by one, each with the span of its frames."""
    start = 0
    while chunks:
        chunk = chunks.pop(0)
        end = start + chunk.shape[2]
        yield slice(start, end), chunk
        start = end


class ResBlock(nn.Module):
    """Residual block of two causal convolutions; in the decoder, the norms are conditioned on the latents."""

    def __init__(self, channels: int, out_channels: int, latent_channels: int | None, ops: Ops) -> None:
        super().__init__()

        def norm(width: int) -> nn.Module:
            return LatentNorm(width, latent_channels, ops) if latent_channels else group_norm(width, ops)

        self.norm1 = norm(channels)
        self.conv1 = CausalConv3d(channels, out_channels, ops)
        self.norm2 = norm(out_channels)
        self.conv2 = CausalConv3d(out_channels, out_channels, ops)
        self.conv_shortcut = ops.Conv3d(channels, out_channels, kernel_size=1) if channels != out_channels else None

    def forward(self, chunks: list[Tensor], past: Past, *latents: Tensor) -> list[Tensor]:
        """Empties the list of chunks; in place on them if the channels do not change, unless gradients are enabled."""
        convolve, activate = self.conv1.bind(chunks[0], past), activation(self.norm1, chunks, *latents)
        shortcut = None if self.conv_shortcut is None else bind_conv3d(self.conv_shortcut, chunks[0])
        h, out = [], []
        for frames, x_BCFHW in pop_chunks(chunks):
            h.append(convolve(activate(x_BCFHW, frames)))
            out.append(x_BCFHW if shortcut is None else shortcut(x_BCFHW))
        convolve, activate = self.conv2.bind(h[0], past), activation(self.norm2, h, *latents)
        for index, (frames, x_BCFHW) in enumerate(pop_chunks(h)):
            out[index] = convolve(activate(x_BCFHW, frames), out[index])
        return out


class Downsample(nn.Module):
    """Halve height and width, and optionally time; the first of an odd number of frames is not averaged."""

    def __init__(self, channels: int, halves_time: bool, ops: Ops) -> None:
        super().__init__()
        self.conv = ops.Conv2d(channels, channels, kernel_size=3, stride=2)
        self.halves_time = halves_time

    def forward(self, chunks: list[Tensor], chunk_bytes: int) -> list[Tensor]:
        """Empties the list of chunks; the smaller results fit the budget without another split."""
        convolve, batch = bind_conv(self.conv, chunks[0]), len(chunks[0])
        if self.halves_time:
            chunks = [_halved(x_BCFHW) for x_BCFHW in (chunks if len(chunks) == 1 else _pairs(chunks))]
        return [_video(convolve(F.pad(_images(x_BCFHW), (0, 1, 0, 1))), batch) for _, x_BCFHW in pop_chunks(chunks)]


def _halved(x_BCFHW: Tensor) -> Tensor:
    """Mean of every two frames; the first of an odd number is kept as it is."""
    single = x_BCFHW.shape[2] % 2
    means = x_BCFHW[:, :, single:].unflatten(2, (-1, 2)).mean(3)
    return torch.cat([x_BCFHW[:, :, :single], means], dim=2)


def _pairs(chunks: list[Tensor]) -> list[Tensor]:
    """Chunks of two frames; the first has one if their number is odd."""
    frames = [frame for _, chunk in pop_chunks(chunks) for frame in chunk.split(1, dim=2)]
    single = len(frames) % 2
    return frames[:single] + [torch.cat(frames[i : i + 2], dim=2) for i in range(single, len(frames), 2)]


class Upsample(nn.Module):
    """Double height and width, and optionally time; the first of an odd number of frames is not repeated."""

    def __init__(self, channels: int, doubles_time: bool, ops: Ops) -> None:
        super().__init__()
        self.conv = ops.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.doubles_time = doubles_time

    def forward(self, chunks: list[Tensor], chunk_bytes: int) -> list[Tensor]:
        """Empties the list of chunks; those of the result fit the budget."""
        convolve = doubled_conv(self.conv, _images(chunks[0]))
        single = sum(chunk.shape[2] for chunk in chunks) % 2 if self.doubles_time else 0
        out: list[Tensor] = []
        for span, x_BCFHW in pop_chunks(chunks):
            # of the result: scaled in float32, activated
            frame_bytes = 4 * x_BCFHW[:, :, 0].numel() * (4 + 2 * x_BCFHW.element_size())
            size = min(x_BCFHW.shape[2], items_within(chunk_bytes, frame_bytes))
            for index, frames_BCFHW in enumerate(x_BCFHW.split(size, dim=2)):
                doubled_BCFHW = _video(convolve(_images(frames_BCFHW)), len(x_BCFHW))
                if self.doubles_time:  # exact after the convolution too, which then has half of the frames
                    doubled_BCFHW = _repeated(doubled_BCFHW, single if span.start == index == 0 else 0)
                out += split_frames(chunk_bytes, doubled_BCFHW)
        return out


def _repeated(x_BCFHW: Tensor, single: int) -> Tensor:
    """Every frame twice, except the first `single`."""
    if x_BCFHW.is_cuda:  # where repeat_interleave would lay a channels-last map out channels first
        index_F = (torch.arange(2 * x_BCFHW.shape[2] - single, device=x_BCFHW.device) + single) // 2
        return x_BCFHW.movedim(1, -1).index_select(1, index_F).movedim(-1, 1)
    return torch.cat([x_BCFHW[:, :, :single], x_BCFHW[:, :, single:].repeat_interleave(2, dim=2)], dim=2)


def _images(x_BCFHW: Tensor) -> Tensor:
    return rearrange(x_BCFHW, "B C F H W -> (B F) C H W")


def _video(x_NCHW: Tensor, batch: int) -> Tensor:
    return rearrange(x_NCHW, "(B F) C H W -> B C F H W", B=batch)
