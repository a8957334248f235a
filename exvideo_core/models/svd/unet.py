"""Stable Video Diffusion's UNet (arXiv:2311.15127), with ExVideo's extension where its tensors are there.

Shapes: N clips x T frames (B = N T), H and W latent height and width, D context channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from ...attention import Attention, sdpa
from ...errors import ClipError
from ..layers import Ops, norm_groups, sinusoid
from .blocks import Conditions, Downsample, ResBlock, SpatioTemporalTransformer, Upsample
from .config import UNetConfig

# Of the residual blocks' norms, where DiffSynth-Studio 1.1.9 and diffusers agree: the smaller one on the way down where
# there is attention, and on the whole way up. (sgm has 1e-5 everywhere, 2e-5 off their results on random weights.)
_EPS = 1e-5
_ATTENDING_EPS = 1e-6


class SVDUNet(nn.Module):
    """Predicts v of every frame from noisy latents, the conditioning picture and its embedding.

    Args:
        config: sizes; `UNetConfig.from_shapes` reads them from a checkpoint.
        ops: where the layers come from.
        attention: function of q, k, v.
    """

    def __init__(self, config: UNetConfig, ops: Ops = nn, attention: Attention = sdpa) -> None:
        super().__init__()
        self.config = config
        width, time_dim = config.widths[0], config.time_dim
        self.time_embed = _mlp(width, time_dim, ops)
        self.label_emb = nn.Sequential(_mlp(3 * config.id_dim, time_dim, ops))
        build = _Builder(config, ops, attention)
        self.input_blocks = build.down()
        deepest = config.widths[-1]
        self.middle_block = nn.ModuleList(
            [
                build.res(deepest, deepest, _EPS),
                build.transformer(deepest),
                build.res(deepest, deepest, _EPS),
            ]
        )
        self.output_blocks = build.up()
        self.out = nn.Sequential(
            ops.GroupNorm(norm_groups(width), width, eps=_EPS),
            nn.SiLU(),
            ops.Conv2d(width, config.out_channels, kernel_size=3, padding=1),
        )

    def forward(
        self,
        x_BCHW: Tensor,
        timestep: Tensor,
        context: Tensor,
        add_time_ids: Tensor,
        num_frames: int | None = None,
        frame_ids: Sequence[int] | None = None,
    ) -> Tensor:
        """Predict v.

        Args:
            x_BCHW: [N T, 8, H, W]: scaled noisy latents, then the conditioning picture's latents.
            timestep: 0.25 ln sigma; a scalar, [1], [N] or [N T].
            context: image embeddings, [D], [1, D], [N, 1, D] or [N T, 1, D].
            add_time_ids: fps - 1, motion bucket, noise augmentation; [1, 3], [N, 3] or [N T, 3].
            num_frames: T; all of B when left out.
            frame_ids: place of each frame in the whole clip; 0 to T - 1 when left out.

        Returns:
            [N T, 4, H, W].

        Raises:
            ClipError: a frame beyond the extension's position table, or cells too few for its reflected borders.
        """
        ids = sinusoid(add_time_ids.reshape(-1), self.config.id_dim)
        return self.denoise(x_BCHW, timestep, context, ids.view(-1, 3 * self.config.id_dim), num_frames, frame_ids)

    def denoise(
        self,
        x_BCHW: Tensor,
        timestep: Tensor,
        context: Tensor,
        ids_embedding: Tensor,
        num_frames: int | None = None,
        frame_ids: Sequence[int] | None = None,
    ) -> Tensor:
        """As `forward`, for a caller that embedded the three ids itself: `ids_embedding` [N, 3 x id_dim]."""
        num_frames = num_frames or x_BCHW.shape[0]
        self._check(x_BCHW, num_frames, frame_ids)
        on = self._conditions(x_BCHW, timestep, context, ids_embedding, num_frames, frame_ids)
        skips = []
        for block in self.input_blocks.children():
            x_BCHW = _run(block.children(), x_BCHW, on)
            skips.append(x_BCHW)
        x_BCHW = _run(self.middle_block, x_BCHW, on)
        for block in self.output_blocks.children():
            x_BCHW = torch.cat([x_BCHW, skips.pop()], dim=1)
            x_BCHW = _run(block.children(), x_BCHW, on, size=_sides(skips[-1]) if skips else None)
        return self.out(x_BCHW)

    def _conditions(
        self,
        x_BCHW: Tensor,
        timestep: Tensor,
        context: Tensor,
        ids_embedding: Tensor,
        num_frames: int,
        frame_ids: Sequence[int] | None,
    ) -> Conditions:
        batch, dtype, device = x_BCHW.shape[0], x_BCHW.dtype, x_BCHW.device
        steps = sinusoid(timestep.reshape(-1).to(device), self.config.widths[0]).to(dtype)
        embedding_BC = _per_frame(self.time_embed(steps), batch) + _per_frame(
            self.label_emb(ids_embedding.to(device, dtype)), batch
        )
        tokens = context if context.ndim == 3 else context.reshape(-1, 1, context.shape[-1])
        places = range(num_frames) if frame_ids is None else frame_ids
        return Conditions(
            embedding=embedding_BC,
            context=_per_frame(tokens.to(device, dtype), batch),
            num_frames=num_frames,
            frame_ids=torch.tensor(list(places), device=device),
        )

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
        smallest = 2 ** (len(self.config.widths) - 1) + 1  # leaves two cells on the deepest level
        if min(height, width) < smallest or num_frames < 2:
            raise ClipError(
                f"{num_frames} frames of {width * 8}x{height * 8} pixels are too small for an extended model: "
                f"it needs at least 2 frames of {smallest * 8}x{smallest * 8}."
            )

    def reset_extension(self) -> None:
        """Make a new extension start as the base model (see `TemporalExtension.reset`)."""
        for module in self.modules():
            if isinstance(module, SpatioTemporalTransformer) and module.extension is not None:
                module.extension.reset()


def _mlp(channels: int, out_channels: int, ops: Ops) -> nn.Sequential:
    return nn.Sequential(ops.Linear(channels, out_channels), nn.SiLU(), ops.Linear(out_channels, out_channels))


def _per_frame(x: Tensor, batch: int) -> Tensor:
    """Repeat [1 or N, ...] to one row a frame, [N T, ...]."""
    if batch % x.shape[0]:
        raise ValueError(f"conditioning of {x.shape[0]} rows does not fit {batch} frames")
    return x.repeat_interleave(batch // x.shape[0], dim=0)


def _sides(x_BCHW: Tensor) -> tuple[int, int]:
    return x_BCHW.shape[2], x_BCHW.shape[3]


def _run(layers: Iterable[nn.Module], x_BCHW: Tensor, on: Conditions, size: tuple[int, int] | None = None) -> Tensor:
    """Apply a block's layers; `size` is what an upsampling in it grows to."""
    for layer in layers:
        if isinstance(layer, ResBlock | SpatioTemporalTransformer):
            x_BCHW = layer(x_BCHW, on)
        elif isinstance(layer, Upsample):
            x_BCHW = layer(x_BCHW, size)
        else:
            x_BCHW = layer(x_BCHW)
    return x_BCHW


class _Builder:
    """Puts the levels together in the published order, so that the block numbers are the checkpoint's."""

    def __init__(self, config: UNetConfig, ops: Ops, attention: Attention) -> None:
        self.config, self.ops, self.attention = config, ops, attention
        self.skip_channels: list[int] = []

    def res(self, channels: int, out_channels: int, norm_eps: float) -> ResBlock:
        return ResBlock(channels, out_channels, self.config.time_dim, norm_eps, self.ops)

    def transformer(self, channels: int) -> SpatioTemporalTransformer:
        config = self.config
        return SpatioTemporalTransformer(
            channels, config.context_dim, config.extension_frames, self.attention, self.ops
        )

    def down(self) -> nn.ModuleList:
        config = self.config
        channels = config.widths[0]
        blocks = [nn.ModuleList([self.ops.Conv2d(config.in_channels, channels, kernel_size=3, padding=1)])]
        self.skip_channels = [channels]
        for level, width in enumerate(config.widths):
            eps = _ATTENDING_EPS if level in config.attention_levels else _EPS
            for _ in range(config.blocks_per_level):
                layers: list[nn.Module] = [self.res(channels, width, eps)]
                if level in config.attention_levels:
                    layers.append(self.transformer(width))
                blocks.append(nn.ModuleList(layers))
                self.skip_channels.append(width)
                channels = width
            if level < len(config.widths) - 1:
                blocks.append(nn.ModuleList([Downsample(width, self.ops)]))
                self.skip_channels.append(width)
        return nn.ModuleList(blocks)

    def up(self) -> nn.ModuleList:
        config = self.config
        channels = config.widths[-1]
        blocks = []
        for level, width in reversed(list(enumerate(config.widths))):
            for index in range(config.blocks_per_level + 1):
                layers: list[nn.Module] = [self.res(channels + self.skip_channels.pop(), width, _ATTENDING_EPS)]
                if level in config.attention_levels:
                    layers.append(self.transformer(width))
                if level and index == config.blocks_per_level:
                    layers.append(Upsample(width, self.ops))
                blocks.append(nn.ModuleList(layers))
                channels = width
        return nn.ModuleList(blocks)
