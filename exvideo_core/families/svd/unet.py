"""Stable Video Diffusion's UNet (arXiv:2311.15127), optionally with ExVideo's extension (arXiv:2406.14130).

Shapes: N clips x T frames (B = N T), C channels, H and W latent height and width, D context channels.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ...errors import ClipError
from ...nn.attention import Attention, sdpa
from ...nn.chunks import CHUNK_BYTES, items_within, map_chunks
from ...nn.group_norm import norm_silu
from ...nn.layers import Ops, group_norm, sinusoid
from ...nn.step_cache import Branch
from .blocks import ResBlock, UNetArgs, Upsample, channels_last
from .config import UNetConfig
from .lazy_frames import Frames, LazyFrames, OffloadSkip, keep
from .transformer import SpatioTemporalTransformer

# Epsilon of the residual blocks' norms as in DiffSynth-Studio 1.1.9 and diffusers: 1e-6 on the up path and, on the down
# path, at levels with attention; else 1e-5. (sgm has 1e-5 everywhere, which differs by 2e-5 on random weights.)
_EPS = 1e-5
_ATTENTION_EPS = 1e-6


class SVDUNet(nn.Module):
    """Predicts v of every frame from noisy latents, the conditioning image and its embedding.

    Its layers are `torch.nn`'s or a host's, `ops`.
    """

    # layers that fp8 leaves in their dtype: the first, the last and all embeddings
    fp8_keep = re.compile(r"^(time_embed|label_emb|input_blocks\.0|out)\.|(^|\.)(emb_layers|time_pos_embed)\.")

    def __init__(self, config: UNetConfig, ops: Ops = nn, attention: Attention = sdpa) -> None:
        super().__init__()
        self.config = config
        self.chunk_bytes = CHUNK_BYTES  # for the temporary tensors of one chunk; changes results by rounding only
        self.offload_skip: OffloadSkip = keep  # or `HostTensor`: skips wait in host memory until the up path needs them
        width, time_dim = config.widths[0], config.time_dim
        self.time_embed = _mlp(width, time_dim, ops)
        self.label_emb = nn.Sequential(_mlp(3 * config.id_dim, time_dim, ops))
        build = _Builder(config, ops, attention)
        self.input_blocks = build.down()
        deepest = config.widths[-1]
        res = partial(build.res, deepest, deepest, norm_eps=_EPS)
        self.middle_block = nn.ModuleList([res(), build.transformer(deepest), res()])
        self.output_blocks = build.up()
        conv_out = ops.Conv2d(width, config.out_channels, kernel_size=3, padding=1)
        self.out = _NormConv(group_norm(width, ops, _EPS), nn.SiLU(), conv_out)

    def forward(
        self,
        x_BCHW: Tensor,
        timestep: Tensor,
        context: Tensor,
        add_time_ids: Tensor,
        num_frames: int | None = None,
        frame_ids: Sequence[int] | None = None,
        memory: Branch | None = None,
    ) -> Tensor:
        """Predict v, [N T, 4, H, W].

        Args:
            x_BCHW: [N T, 8, H, W]: scaled noisy latents, then the conditioning image's latents.
            timestep: 0.25 ln sigma; a scalar, [1], [N] or [N T].
            context: image embeddings, [D], [1, D], [N, 1, D] or [N T, 1, D].
            add_time_ids: fps - 1, motion bucket, noise augmentation; [1, 3], [N, 3] or [N T, 3]. Or their sinusoids,
                `id_dim` for each.
            num_frames: T; default B.
            frame_ids: number of each frame in the whole clip; default 0 to T - 1.
            memory: cache of previous steps, to skip blocks whose output changes little (see `step_cache`).
        """
        if add_time_ids.shape[-1] == 3:
            id_dim = self.config.id_dim
            add_time_ids = sinusoid(add_time_ids.reshape(-1), id_dim).view(-1, 3 * id_dim)
        num_frames = num_frames or x_BCHW.shape[0]
        self._check(x_BCHW, num_frames, frame_ids)
        device, dtype = x_BCHW.device, x_BCHW.dtype
        ids_T = torch.tensor(list(range(num_frames) if frame_ids is None else frame_ids), device=device)
        steps = sinusoid(timestep.reshape(-1).to(device), self.config.widths[0]).to(dtype)
        embedding = self.time_embed(steps), self.label_emb(add_time_ids.to(device, dtype))
        tokens = context if context.ndim == 3 else context.reshape(-1, 1, context.shape[-1])
        clips = []
        for clip, start in enumerate(range(0, len(x_BCHW), num_frames)):  # one by one: half the memory, same speed
            rows_of = partial(_clip_rows, clip=clip, num_frames=num_frames, batch=len(x_BCHW))
            args = UNetArgs(
                embedding=rows_of(embedding[0]) + rows_of(embedding[1]),
                context=rows_of(tokens.to(device, dtype)),
                frame_ids=ids_T,
                chunk_bytes=self.chunk_bytes,
            )
            x_TCHW = channels_last(x_BCHW[start : start + num_frames])
            clips.append(self._denoise_clip(x_TCHW, args, memory and memory.part(clip)))
        return torch.cat(clips) if len(clips) > 1 else clips[0]

    def _denoise_clip(self, x_TCHW: Frames, args: UNetArgs, memory: Branch | None) -> Tensor:
        skips: list[Frames] = []
        for index, block in enumerate(self.input_blocks.children()):
            if memory and index == 1:
                memory.enter(x_TCHW[:])
            for layer in block.children():
                x_TCHW = _apply(layer, x_TCHW, args)
            skips.append(self.offload_skip(x_TCHW[:]))
            if memory and index == 1 and (predicted := memory.predict(x_TCHW[:])) is not None:
                return _apply(self.out, predicted, args)[:]
        for layer in self.middle_block:
            x_TCHW = _apply(layer, x_TCHW, args)
        for block in self.output_blocks.children():
            skip: Frames | None = skips.pop()
            size = tuple(skips[-1].shape[2:]) if skips else None
            for layer in block.children():
                x_TCHW = _apply(layer, x_TCHW, args, skip, size)
                skip = None  # free its memory
        if memory:
            memory.keep(x_TCHW[:])
        return _apply(self.out, x_TCHW, args)[:]

    def _check(self, x_BCHW: Tensor, num_frames: int, frame_ids: Sequence[int] | None) -> None:
        batch, channels, height, width = x_BCHW.shape
        if channels != self.config.in_channels or batch % num_frames:
            raise ValueError(f"expected [N x {num_frames}, {self.config.in_channels}, H, W], not {tuple(x_BCHW.shape)}")
        if frame_ids is not None and len(frame_ids) != num_frames:
            raise ValueError(f"{len(frame_ids)} frame ids were given for {num_frames} frames")
        table = self.config.extension_frames
        if table is None:
            return
        last = num_frames - 1 if frame_ids is None else max(frame_ids)
        if last >= table:
            raise ClipError(
                f"{last + 1} frames were asked for, but this extension was trained for {table}. "
                f"Choose {table} frames or fewer, or use context windows."
            )
        smallest = 2 ** (len(self.config.widths) - 1) + 1  # two cells on the deepest level
        if min(height, width) < smallest or num_frames < 2:
            raise ClipError(
                f"{num_frames} frames of {width * 8}x{height * 8} pixels are too small for an extended model: "
                f"it needs at least 2 frames of {smallest * 8}x{smallest * 8}."
            )


def blocks_of(unet: SVDUNet) -> list[nn.Module]:
    """The UNet's layers in the order they are called: nearly all of its weights."""
    layers = [layer for block in (*unet.input_blocks, unet.middle_block, *unet.output_blocks) for layer in block]
    # an upsampling is small, and the next layer calls it chunk by chunk
    return [layer for layer in layers if not isinstance(layer, Upsample)]


class _NormConv(nn.Sequential):
    def forward(self, x_TCHW: Tensor) -> Tensor:
        norm, _, conv = self
        return conv(norm_silu(norm, x_TCHW))


def _mlp(channels: int, out_channels: int, ops: Ops) -> nn.Sequential:
    return nn.Sequential(ops.Linear(channels, out_channels), nn.SiLU(), ops.Linear(out_channels, out_channels))


def _clip_rows(rows: Tensor, clip: int, num_frames: int, batch: int) -> Tensor:
    """Rows of [1, N or N T, ...] that belong to one clip: one for all of its frames, or one for each."""
    if batch % len(rows):
        raise ValueError(f"conditioning of {len(rows)} rows does not fit {batch} frames")
    count = len(rows) * num_frames // batch
    return rows[:1] if len(rows) == 1 else rows[clip * count : (clip + 1) * count]


def _apply(
    layer: nn.Module, x_TCHW: Frames, args: UNetArgs, skip: Frames | None = None, size: tuple[int, ...] | None = None
) -> Frames:
    """Run one layer of a block; `size` is the height and width an upsampling layer must produce."""
    if isinstance(layer, ResBlock):
        return layer(x_TCHW, args, skip)
    if isinstance(layer, SpatioTemporalTransformer):
        return layer(x_TCHW, args)
    if isinstance(layer, Upsample):
        upsample = partial(layer, size=size)
        shape = (*x_TCHW.shape[:2], *(size or (2 * side for side in x_TCHW.shape[2:])))
        return upsample(x_TCHW[:]) if torch.is_grad_enabled() else LazyFrames(upsample, x_TCHW[:], shape)
    frame_bytes = x_TCHW.shape[1:].numel() * x_TCHW.dtype.itemsize
    frames = items_within(args.chunk_bytes, 3 * frame_bytes)
    return map_chunks(lambda span: channels_last(layer(x_TCHW[span])), x_TCHW.shape[0], frames)


class _Builder:
    """Builds the levels in the published order, so that block numbers match the checkpoint's."""

    def __init__(self, config: UNetConfig, ops: Ops, attention: Attention) -> None:
        self.config, self.ops, self.skip_channels = config, ops, [config.widths[0]]
        self.res = partial(ResBlock, embedding=config.time_dim, ops=ops)
        transformer = partial(SpatioTemporalTransformer, attention=attention, ops=ops)
        frames = config.extension_frames
        self.transformer = partial(transformer, context_dim=config.context_dim, extension_frames=frames)

    def layers(self, level: int, channels: int, norm_eps: float) -> list[nn.Module]:
        """A residual block and, at levels with attention, a transformer."""
        width = self.config.widths[level]
        res = self.res(channels, width, norm_eps=norm_eps)
        return [res, self.transformer(width)] if level in self.config.attention_levels else [res]

    def down(self) -> nn.ModuleList:
        config, width = self.config, self.config.widths[0]
        blocks: list[list[nn.Module]] = [[self.ops.Conv2d(config.in_channels, width, kernel_size=3, padding=1)]]
        for level, width in enumerate(config.widths):
            eps = _ATTENTION_EPS if level in config.attention_levels else _EPS
            for _ in range(config.blocks_per_level):
                blocks.append(self.layers(level, self.skip_channels[-1], eps))
                self.skip_channels.append(width)
            if level < len(config.widths) - 1:
                halve = self.ops.Conv2d(width, width, kernel_size=3, stride=2, padding=1)
                blocks.append([nn.Sequential(OrderedDict(op=halve))])
                self.skip_channels.append(width)
        return nn.ModuleList(map(nn.ModuleList, blocks))

    def up(self) -> nn.ModuleList:
        config, channels = self.config, self.config.widths[-1]
        blocks = []
        for level, width in reversed(list(enumerate(config.widths))):
            for index in range(config.blocks_per_level + 1):
                layers = self.layers(level, channels + self.skip_channels.pop(), _ATTENTION_EPS)
                if level and index == config.blocks_per_level:
                    layers.append(Upsample(width, self.ops))
                blocks.append(layers)
                channels = width
        return nn.ModuleList(map(nn.ModuleList, blocks))
