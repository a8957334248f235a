"""Per-frame blocks of SVD's autoencoder, in chunks of frames, or of rows where one frame exceeds a chunk.

Parameter names are those of the sgm code base. Shapes: T frames, C channels, H and W height and width, L = H W cells.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ...nn.chunks import added, empty_map, items_within, map_chunks, spans
from ...nn.convolution import bind_conv_and_bias, channels_last_on_gpu
from ...nn.effective_weights import effective_weights
from ...nn.fused import scaled_silu
from ...nn.group_norm import affine, norm_silu, normed, row_chunks
from ...nn.layers import Ops, group_norm
from .blocks import Rows, added_rows, constants, frames_first, rows_first


def norm_conv(
    norm: nn.Module, conv: nn.Module, x_TCHW: Tensor, chunk_bytes: int, shift_C: Tensor | None = None
) -> tuple[int, Rows, Tensor | None]:
    """Norm, SiLU and 3x3 convolution as a function of a span of rows, and the rows that fit a chunk.

    Also the bias that the convolution leaves out. `shift_C` is a constant that belongs to x, and is not in it. Only a
    single frame is cut into rows, because each frame has its own norm statistics.
    """
    height, (convolve, bias) = x_TCHW.shape[2], bind_conv_and_bias(conv, x_TCHW)
    # scaled in float32, activated, result
    rows = items_within(chunk_bytes, rows_first(x_TCHW)[0].numel() * (4 + 2 * x_TCHW.element_size()))
    weights = effective_weights(norm, x_TCHW) if len(x_TCHW) == 1 and rows < height else None
    if weights is None:
        shift_1C = None if shift_C is None else shift_C[None]
        return height, lambda span: rows_first(convolve(norm_silu(norm, x_TCHW, shift_1C)))[span], bias
    scale = affine(norm, weights, row_chunks([x_TCHW], chunk_bytes), axes=2, shift_C=shift_C)

    def with_halo(span: slice) -> Tensor:
        above, below = max(0, span.start - 1), min(height, span.stop + 1)
        out_1CHW = convolve(scaled_silu(x_TCHW[:, :, above:below], *scale))
        return rows_first(out_1CHW)[span.start - above : span.stop - above]

    return rows, with_halo, bias


class SpatialBlock(nn.Module):
    """Weights of a residual block of two 3x3 convolutions, and its computation on frames."""

    def __init__(self, channels: int, out_channels: int, ops: Ops) -> None:
        super().__init__()
        self.norm1 = group_norm(channels, ops)
        self.conv1 = ops.Conv2d(channels, out_channels, kernel_size=3, padding=1)
        self.norm2 = group_norm(out_channels, ops)
        self.conv2 = ops.Conv2d(out_channels, out_channels, kernel_size=3, padding=1)
        self.nin_shortcut = ops.Conv2d(channels, out_channels, kernel_size=1) if channels != out_channels else None
        self.out_channels = out_channels

    def spatial(self, x_TCHW: Tensor, chunk_bytes: int) -> Tensor:
        """The residual block; in place on x if the number of channels does not change, unless gradients are enabled."""
        frames, channels, height, width = x_TCHW.shape
        # input of a convolution scaled in float32, and activated; its result likewise
        frame_bytes = height * width * max(channels, self.out_channels) * (4 + 2 * x_TCHW.element_size())
        size = items_within(chunk_bytes, frame_bytes)
        out_TCHW, out_bias = x_TCHW, None
        if self.nin_shortcut is not None:
            shortcut: Callable[[Tensor], Tensor] = self.nin_shortcut
            if x_TCHW.is_cuda:
                shortcut, out_bias = bind_conv_and_bias(self.nin_shortcut, x_TCHW)
            out_TCHW = shortcut(x_TCHW)
        if size >= frames:
            return self._add_residual(out_TCHW, out_bias, x_TCHW, chunk_bytes)
        for span in spans(frames, size):
            self._add_residual(out_TCHW[span], out_bias, x_TCHW[span], chunk_bytes)
        return out_TCHW

    def _add_residual(self, out_TCHW: Tensor, out_bias: Tensor | None, x_TCHW: Tensor, chunk_bytes: int) -> Tensor:
        """out + its bias + the convolutions of x; in place on out, unless gradients are enabled."""
        frames, _, height, width = x_TCHW.shape
        rows, first, first_bias = norm_conv(self.norm1, self.conv1, x_TCHW, chunk_bytes)
        h_HTCW = None if rows >= height else rows_first(empty_map(x_TCHW, (frames, self.out_channels, height, width)))
        h_TCHW = frames_first(map_chunks(first, height, rows, h_HTCW))
        rows, second, bias = norm_conv(self.norm2, self.conv2, h_TCHW, chunk_bytes, first_bias)
        bias = constants(bias, out_bias) if bias is not None else out_bias
        return added_rows(out_TCHW, second, rows, bias)


class ResBlock(SpatialBlock):
    """Residual block of the encoder."""

    def forward(self, x_TCHW: Tensor, chunk_bytes: int) -> Tensor:
        return self.spatial(x_TCHW, chunk_bytes)


class SelfAttention(nn.Module):
    """Single-head self-attention over the cells of each frame."""

    def __init__(self, channels: int, ops: Ops) -> None:
        super().__init__()
        self.norm = group_norm(channels, ops)
        self.q = ops.Conv2d(channels, channels, kernel_size=1)
        self.k = ops.Conv2d(channels, channels, kernel_size=1)
        self.v = ops.Conv2d(channels, channels, kernel_size=1)
        self.proj_out = ops.Conv2d(channels, channels, kernel_size=1)

    def forward(self, x_TCHW: Tensor, chunk_bytes: int) -> Tensor:
        """x + attention; in place on x, unless gradients are enabled."""
        # normed, queries, keys, values, attended, result
        size = items_within(chunk_bytes, 6 * x_TCHW[0].nbytes)
        return added(x_TCHW, lambda span: self._residual(x_TCHW[span]), size)

    def _residual(self, x_TCHW: Tensor) -> Tensor:
        h_TCHW = channels_last_on_gpu(normed(self.norm, x_TCHW))
        # CUDA's fused kernels take four axes, the last one dense
        q, k, v = (rearrange(layer(h_TCHW), "T C H W -> T 1 (H W) C") for layer in (self.q, self.k, self.v))
        out_T1LC = F.scaled_dot_product_attention(q, k, v)
        return self.proj_out(rearrange(out_T1LC, "T 1 (H W) C -> T C H W", H=x_TCHW.shape[2]))


class Middle(nn.Module):
    """Attention between two residual blocks, at the lowest resolution; encoder and decoder call them one by one."""

    def __init__(self, block: Callable[[int, int, Ops], SpatialBlock], channels: int, ops: Ops) -> None:
        super().__init__()
        self.block_1 = block(channels, channels, ops)
        self.attn_1 = SelfAttention(channels, ops)
        self.block_2 = block(channels, channels, ops)
