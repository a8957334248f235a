"""Convolutions that see only the past, for video that is worked on in pieces, and the blocks made of them.

A map of a piece is a list of tensors of some frames each, so that each is freed when what follows from it is there.
Shapes: B clips, C channels, F frames, H W height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ...nn.chunks import items_within, plus
from ...nn.conv3d import bind_conv3d, bind_conv3d_of_frames
from ...nn.convolution import bind_conv
from ...nn.layers import Ops
from ...nn.upsample import doubled_conv
from .norms import LatentNorm, activation, group_norm

# Last two frames that each convolution has seen, for the piece that follows; a new clip starts with an empty one.
Past = dict[nn.Module, tuple[Tensor, Tensor]]


class CausalConv3d(nn.Module):
    """3x3x3 convolution over the current frame and the two before; before the first there are copies of it."""

    def __init__(self, channels: int, out_channels: int, ops: Ops) -> None:
        super().__init__()
        self.conv = ops.Conv3d(channels, out_channels, kernel_size=3, padding=(0, 1, 1))

    def forward(self, x_BCFHW: Tensor, past: Past) -> Tensor:
        return self.bind(x_BCFHW, past)(x_BCFHW)

    def bind(self, like: Tensor, past: Past) -> Callable[[Tensor], Tensor]:
        """As a function, to be called for all parts of a map in turn."""
        convolve = bind_conv3d_of_frames(self.conv, like)

        def continued(x_BCFHW: Tensor) -> Tensor:
            frames = x_BCFHW.split(1, dim=2)
            frames = past.get(self, (frames[0], frames[0])) + frames
            past[self] = _alone(frames[-2]), _alone(frames[-1])
            return convolve(frames)

        return continued


def _alone(frame: Tensor) -> Tensor:
    """Without the memory of the others that it is a view of."""
    return frame if frame.untyped_storage().nbytes() == frame.nbytes else frame.clone()


def laid_out(x_BCFHW: Tensor) -> Tensor:
    """As the device wants what it convolves; all that follows stays so."""
    return x_BCFHW if x_BCFHW.device.type == "cpu" else x_BCFHW.contiguous(memory_format=torch.channels_last_3d)


def parts_within(chunk_bytes: int, x_BCFHW: Tensor) -> tuple[Tensor, ...]:
    """Frames, as many at once as may be convolved."""
    # scaled in float32, activated, result
    frame_bytes = x_BCFHW[:, :, 0].numel() * (4 + 2 * x_BCFHW.element_size())
    return x_BCFHW.split(min(x_BCFHW.shape[2], items_within(chunk_bytes, frame_bytes)), dim=2)


def consume(parts: list[Tensor]) -> Iterator[tuple[slice, Tensor]]:
    """Each part and the place of its frames, taken out of the list."""
    start = 0
    while parts:
        part = parts.pop(0)
        end = start + part.shape[2]
        yield slice(start, end), part
        start = end


class ResBlock(nn.Module):
    """Two causal convolutions; with `latent_channels`, the norms are conditioned on the latents (decoder)."""

    def __init__(self, channels: int, out_channels: int, latent_channels: int | None, ops: Ops) -> None:
        super().__init__()

        def norm(width: int) -> nn.Module:
            return LatentNorm(width, latent_channels, ops) if latent_channels else group_norm(width, ops)

        self.norm1 = norm(channels)
        self.conv1 = CausalConv3d(channels, out_channels, ops)
        self.norm2 = norm(out_channels)
        self.conv2 = CausalConv3d(out_channels, out_channels, ops)
        self.conv_shortcut = ops.Conv3d(channels, out_channels, kernel_size=1) if channels != out_channels else None

    def forward(self, parts: list[Tensor], past: Past, *latents: Tensor) -> list[Tensor]:
        """Takes the parts out of the list, and their memory for the result unless gradients are wanted."""
        convolve, activate = self.conv1.bind(parts[0], past), activation(self.norm1, parts, *latents)
        shortcut = None if self.conv_shortcut is None else bind_conv3d(self.conv_shortcut, parts[0])
        h, out = [], []
        for frames, part_BCFHW in consume(parts):
            h.append(convolve(activate(part_BCFHW, frames)))
            out.append(part_BCFHW if shortcut is None else shortcut(part_BCFHW))
        convolve, activate = self.conv2.bind(h[0], past), activation(self.norm2, h, *latents)
        for index, (frames, part_BCFHW) in enumerate(consume(h)):
            out[index] = plus(out[index], convolve(activate(part_BCFHW, frames)))
        return out


class Downsample(nn.Module):
    """Halve height and width, and the frames where asked; the first of an odd number of frames stays alone."""

    def __init__(self, channels: int, halves_time: bool, ops: Ops) -> None:
        super().__init__()
        self.conv = ops.Conv2d(channels, channels, kernel_size=3, stride=2)
        self.halves_time = halves_time

    def forward(self, parts: list[Tensor], chunk_bytes: int) -> list[Tensor]:
        """The budget is met by the parts as they are."""
        convolve, batch = bind_conv(self.conv, parts[0]), len(parts[0])
        if self.halves_time:
            parts = [_halved(part_BCFHW) for part_BCFHW in (parts if len(parts) == 1 else _pairs(parts))]
        return [_video(convolve(F.pad(_images(part_BCFHW), (0, 1, 0, 1))), batch) for _, part_BCFHW in consume(parts)]


def _halved(x_BCFHW: Tensor) -> Tensor:
    """The mean of every two frames, and the first alone if their number is odd."""
    alone = x_BCFHW.shape[2] % 2
    pairs = x_BCFHW[:, :, alone:].unflatten(2, (-1, 2)).mean(3)
    return torch.cat([x_BCFHW[:, :, :alone], pairs], dim=2)


def _pairs(parts: list[Tensor]) -> list[Tensor]:
    """Two frames in each part, and one in the first if their number is odd."""
    frames = [frame for _, part in consume(parts) for frame in part.split(1, dim=2)]
    alone = len(frames) % 2
    return frames[:alone] + [torch.cat(frames[i : i + 2], dim=2) for i in range(alone, len(frames), 2)]


class Upsample(nn.Module):
    """Double height and width, and the frames where asked; the first of an odd number of frames stays single."""

    def __init__(self, channels: int, doubles_time: bool, ops: Ops) -> None:
        super().__init__()
        self.conv = ops.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.doubles_time = doubles_time

    def forward(self, parts: list[Tensor], chunk_bytes: int) -> list[Tensor]:
        """Takes the parts out of the list; those of the result are within the budget."""
        convolve = doubled_conv(self.conv, _images(parts[0]))
        alone = sum(part.shape[2] for part in parts) % 2 if self.doubles_time else 0
        out: list[Tensor] = []
        for place, part_BCFHW in consume(parts):
            # of the result: scaled in float32, activated
            frame_bytes = 4 * part_BCFHW[:, :, 0].numel() * (4 + 2 * part_BCFHW.element_size())
            size = min(part_BCFHW.shape[2], items_within(chunk_bytes, frame_bytes))
            for index, frames_BCFHW in enumerate(part_BCFHW.split(size, dim=2)):
                doubled_BCFHW = _video(convolve(_images(frames_BCFHW)), len(part_BCFHW))
                if self.doubles_time:  # after the convolution it is the same as before, at half of the work
                    doubled_BCFHW = _repeated(doubled_BCFHW, alone if place.start == index == 0 else 0)
                out += parts_within(chunk_bytes, doubled_BCFHW)
        return out


def _repeated(x_BCFHW: Tensor, alone: int) -> Tensor:
    """Every frame twice, but for those at the start that stay alone."""
    return torch.cat([x_BCFHW[:, :, :alone], x_BCFHW[:, :, alone:].repeat_interleave(2, dim=2)], dim=2)


def _images(x_BCFHW: Tensor) -> Tensor:
    return rearrange(x_BCFHW, "B C F H W -> (B F) C H W")


def _video(x_NCHW: Tensor, batch: int) -> Tensor:
    return rearrange(x_NCHW, "(B F) C H W -> B C F H W", B=batch)
