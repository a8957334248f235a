"""3D convolutions as 2D convolutions, which are faster.

In half precision some cuDNN versions have no fast 3D convolution, and PyTorch then takes many times the memory.
Shapes: B clips, C channels, T frames, H W height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .convolution import bind_conv, channels_last_on_gpu
from .effective_weights import Weights, effective_weights
from .fused import added_residual


def conv3d(layer: nn.Module, x_BCTHW: Tensor) -> Tensor:
    """`layer(x)` within rounding; see `bind_conv3d`."""
    return bind_conv3d(layer, x_BCTHW)(x_BCTHW)


def bind_conv3d(layer: nn.Module, like: Tensor) -> Callable[[Tensor], Tensor]:
    """Bind a layer to its effective weights: a function of x [B, C, T, H, W], to be called for all chunks of an input.

    x may have any memory layout; channels-last is kept.

    Args:
        layer: a Conv3d with a kernel of 1x1x1, 3x1x1, or 3x3x3 without padding in time.
        like: has the device and dtype of the inputs.
    """
    weights = effective_weights(layer, like)
    if weights is None:
        return layer
    padding: tuple[int, ...] = layer.padding  # type: ignore[assignment]  # of every Conv3d
    if weights[0].shape[3:] == (1, 1):
        return partial(_over_time, (channels_last_on_gpu(weights[0].squeeze(-1)), weights[1]), padding[0])
    if not _by_frames(like):
        return bind_conv(layer, like)
    return partial(_over_frames, _taps(weights[0]), weights[1], padding[1:])


def bind_conv3d_and_bias(layer: nn.Module, like: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor | None]:
    """`bind_conv3d` for a kernel of 3x1x1, on a GPU without the bias; see `bind_conv_and_bias`."""
    weights = effective_weights(layer, like) if like.is_cuda else None
    if weights is None:
        return bind_conv3d(layer, like), None
    weight, bias = weights
    padding: tuple[int, ...] = layer.padding  # type: ignore[assignment]  # of every Conv3d
    return partial(_over_time, (channels_last_on_gpu(weight.squeeze(-1)), None), padding[0]), bias


def bind_taps(weight_OCKHW: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """A 3x3x3 convolution without padding, as a function of x [1, C, T, H, W] and a bias for each frame, [T - 2, O].

    The result is [T - 2, O, H - 2, W - 2].
    """
    taps = _taps(weight_OCKHW)

    def convolve(x_1CTHW: Tensor, bias_TO: Tensor) -> Tensor:
        x_TCHW = x_1CTHW[0].transpose(0, 1)
        before, here, after = (x_TCHW[tap : len(x_TCHW) - 2 + tap] for tap in range(3))
        out_TOHW = F.conv2d(before, taps[0])
        return added_residual(out_TOHW, bias_TO, None, F.conv2d(here, taps[1]), F.conv2d(after, taps[2]))

    return convolve


# Of frames [1, C, F, H, W], the two before them, [1, C, 1, H, W] each, and a map that the result is added to, in place
AfterPast = Callable[[Tensor, tuple[Tensor, Tensor], Tensor | None], Tensor]


def bind_after_past(layer: nn.Module, like: Tensor) -> AfterPast | None:
    """A 3x3x3 convolution without padding in time, of frames and the two before them, on a GPU; for a single clip.

    None where `bind_conv3d_of_frames` is to be taken. All frames are the batch of three 2D convolutions, whose results
    are summed once, with the bias and the map that they are added to.
    """
    weights = effective_weights(layer, like) if like.is_cuda and len(like) == 1 else None
    if weights is None or weights[1] is None:
        return None
    taps, bias_O = _taps(weights[0]), weights[1]
    padding: tuple[int, ...] = layer.padding[1:]  # type: ignore[assignment, index]  # of every Conv3d
    convolve = partial(F.conv2d, padding=padding)

    def convolve_next(x_1CFHW: Tensor, past: tuple[Tensor, Tensor], onto_1CFHW: Tensor | None) -> Tensor:
        x_FCHW = x_1CFHW[0].transpose(0, 1)
        here_FOHW = convolve(x_FCHW, taps[2])
        out_FOHW, first = (here_FOHW, ()) if onto_1CFHW is None else (onto_1CFHW[0].transpose(0, 1), (here_FOHW,))
        for frames, earlier in _earlier(convolve, taps, x_FCHW, [frame[:, :, 0] for frame in past]):
            added_residual(out_FOHW[frames], bias_O, None, *(each[frames] for each in first), *earlier)
        return out_FOHW.transpose(0, 1)[None]

    return convolve_next


def _earlier(
    convolve: Callable[[Tensor, Tensor], Tensor], taps: Sequence[Tensor], x_FCHW: Tensor, past: Sequence[Tensor]
) -> Iterator[tuple[slice, tuple[Tensor, Tensor]]]:
    """Contributions of the two frames before, to spans of frames."""
    frames = len(x_FCHW)
    yield slice(0, 1), (convolve(past[0], taps[0]), convolve(past[1], taps[1]))
    if frames > 1:
        before = convolve(x_FCHW[:-1], taps[1])
        yield slice(1, 2), (convolve(past[1], taps[0]), before[:1])
    if frames > 2:
        yield slice(2, frames), (before[1:], convolve(x_FCHW[:-2], taps[0]))


def bind_conv3d_of_frames(layer: nn.Module, like: Tensor) -> Callable[[Sequence[Tensor]], Tensor]:
    """`bind_conv3d` for a list of frames [B, C, 1, H, W]; the kernel is 3x3x3 without padding in time."""
    weights = effective_weights(layer, like) if _by_frames(like) else None
    if weights is None:
        convolve = bind_conv3d(layer, like)
        return lambda frames: convolve(torch.cat(tuple(frames), dim=2))
    padding: tuple[int, ...] = layer.padding  # type: ignore[assignment]  # of every Conv3d
    return partial(_of_frames, _taps(weights[0]), weights[1], padding[1:])


def _taps(weight: Tensor) -> list[Tensor]:
    """Weights of the 2D convolutions, one for each frame that a kernel spans, laid out once for all chunks."""
    return [channels_last_on_gpu(tap) for tap in weight.unbind(2)]


def _of_frames(taps: Sequence[Tensor], bias: Tensor | None, padding: Sequence[int], frames: Sequence[Tensor]) -> Tensor:
    """For each frame with two before it, the sum of the three frames' convolutions."""
    outs = []
    for last in range(2, len(frames)):
        images = [frame[:, :, 0] for frame in frames[last - 2 : last + 1]]
        out_BCHW = F.conv2d(images[0], taps[0], bias, padding=tuple(padding))
        for tap in (1, 2):
            out_BCHW += F.conv2d(images[tap], taps[tap], padding=tuple(padding))
        outs.append(out_BCHW[:, :, None])
    return outs[0] if len(outs) == 1 else torch.cat(outs, dim=2)


def _by_frames(x: Tensor) -> bool:
    return x.device.type != "cpu"  # where Conv3d is faster by a half


def _over_time(weights: Weights, padding: int, x_BCTHW: Tensor) -> Tensor:
    """One 2D convolution of an image whose rows are frames and whose columns are cells."""
    weight, bias = weights
    x_BTLC = x_BCTHW.permute(0, 2, 3, 4, 1).flatten(2, 3)  # channels-last also for a single clip
    out_BCTL = F.conv2d(x_BTLC.permute(0, 3, 1, 2), weight, bias, padding=(padding, 0))
    return out_BCTL.unflatten(3, x_BCTHW.shape[3:])


def _over_frames(taps: Sequence[Tensor], bias: Tensor | None, padding: Sequence[int], x_BCTHW: Tensor) -> Tensor:
    """For each frame, the sum of three convolutions: of the frame before, itself and the frame after."""
    batch, frames = len(x_BCTHW), x_BCTHW.shape[2] - 2

    def convolve(tap: int, bias: Tensor | None = None) -> Tensor:
        x_NCHW = x_BCTHW[:, :, tap : tap + frames].transpose(1, 2).flatten(0, 1)
        return F.conv2d(x_NCHW, taps[tap], bias, padding=tuple(padding))

    out_NCHW = convolve(0, bias)
    for tap in (1, 2):
        out_NCHW += convolve(tap)
    return out_NCHW.unflatten(0, (batch, frames)).transpose(1, 2)
