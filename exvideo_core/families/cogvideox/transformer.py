"""CogVideoX's transformer with rotary position embeddings: CogVideoX-5B 1.0 (arXiv:2408.06072).

Parameter names are those of the published files (diffusers' naming), so they load as they are.
Shapes: B clips, C channels, T latent frames, H W latent height and width, L tokens, first the text's, then the
video's, D channels of the text, E channels of the time embedding.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ...nn.attention import Attention, sdpa
from ...nn.chunks import CHUNK_BYTES, items_within, map_chunks
from ...nn.layers import Ops, sinusoid
from ...nn.step_cache import Branch
from .block import Block, RunBlocks, TransformerArgs, run_blocks
from .config import TransformerConfig
from .rope import rope_freqs_cis


class CogVideoXTransformer(nn.Module):
    """Predicts v from noisy latents, a timestep and text embeddings; its layers are `torch.nn`'s or a host's, `ops`."""

    # layers that fp8 leaves in their dtype: the first, the last, and the modulation of norms
    fp8_keep = re.compile(r"^(patch_embed|time_embedding|norm_out|proj_out)(\.|$)|(^|\.)norm\d\.")

    def __init__(self, config: TransformerConfig, ops: Ops = nn, attention: Attention = sdpa) -> None:
        super().__init__()
        self.config = config
        # for the temporary tensors of one chunk, besides tokens and attention output; changes results by rounding only
        self.chunk_bytes = CHUNK_BYTES
        self.run_blocks: RunBlocks = run_blocks  # `sequence_parallel` replaces it
        self.patch_embed = PatchEmbed(config, ops)
        self.time_embedding = TimeEmbedding(config.width, config.time_dim, ops)
        self.transformer_blocks = nn.ModuleList(Block(config, ops, attention) for _ in range(config.layers))
        self.norm_final = ops.LayerNorm(config.width, eps=1e-5)
        self.norm_out = OutNorm(config.width, config.time_dim, ops)
        self.proj_out = ops.Linear(config.width, config.patch**2 * config.out_channels)

    def forward(
        self,
        x_BCTHW: Tensor,
        timestep: Tensor | float,
        context_BLD: Tensor,
        times: Tensor | None = None,
        memory: Branch | None = None,
    ) -> Tensor:
        """Predict v, [B, 16, T, H, W].

        Args:
            x_BCTHW: [B, 16, T, H, W] at unit variance; H and W are multiples of the patch size. The image-to-video
                variant takes 32 channels: the noisy latents, then the image's.
            timestep: 0 to 999, a number, [1] or [B].
            context_BLD: text embeddings, [B, 226, D] or [1, 226, D].
            times: numbers of the latent frames in the whole clip, [T] or [B, T]; default 0 to T - 1.
            memory: cache of previous steps, to skip blocks whose output changes little (see `step_cache`).
        """
        batch, _, frames, height, width = x_BCTHW.shape
        patch = self.config.patch
        if height % patch or width % patch:
            raise ValueError(f"height and width must be multiples of {patch} latent cells, not {height} and {width}")
        steps = torch.as_tensor(timestep, device=x_BCTHW.device).expand(batch)
        x_LBC = self.patch_embed(x_BCTHW, context_BLD.to(x_BCTHW).expand(batch, -1, -1), self.chunk_bytes)
        args = TransformerArgs(
            tokens=len(x_LBC),
            text_tokens=context_BLD.shape[1],
            time_BE=F.silu(self.time_embedding(steps, x_BCTHW.dtype)),
            freqs_cis=self._freqs_cis(x_BCTHW, context_BLD.shape[1], times),
            chunk_bytes=self.chunk_bytes,
        )
        return rearrange(
            self._project_out(self._video_tokens(x_LBC, args, memory), args),
            "(T H W) B (C P Q) -> B C T (H P) (W Q)",
            T=frames,
            H=height // patch,
            P=patch,
            Q=patch,
        )

    def _freqs_cis(self, x_BCTHW: Tensor, text_tokens: int, times: Tensor | None) -> Tensor:
        frames, *sides = x_BCTHW.shape[2:]
        numbers = [range(frames)] if times is None else torch.atleast_2d(times).tolist()
        height, width = (side // self.config.patch for side in sides)
        by_clip = tuple(map(tuple, numbers))
        return rope_freqs_cis(by_clip, height, width, self.config.head_dim, text_tokens, x_BCTHW.device)

    def _video_tokens(self, x_LBC: Tensor, args: TransformerArgs, memory: Branch | None) -> Tensor:
        """The video's tokens after all blocks, or predicted by the step cache after the first block."""
        blocks = list(self.transformer_blocks)
        if memory:
            memory.enter(x_LBC[args.text_tokens :])
        x_LBC = self._forward_blocks(blocks[:1], x_LBC, args)
        if memory and (predicted := memory.predict(x_LBC[args.text_tokens :])) is not None:
            return predicted
        x_LBC = self._forward_blocks(blocks[1:], x_LBC, args)
        if memory:
            memory.keep(x_LBC)
        return x_LBC

    def _forward_blocks(self, blocks: Sequence[nn.Module], x_LBC: Tensor, args: TransformerArgs) -> Tensor:
        """Run some blocks; the transformer's last block returns the video's tokens only, the text's are not used."""
        is_end = len(blocks) > 0 and blocks[-1] is self.transformer_blocks[-1]
        return self.run_blocks(blocks, x_LBC, args, args.text_tokens if is_end else 0)

    def _project_out(self, x_LBC: Tensor, args: TransformerArgs) -> Tensor:
        """Final norm and projection to the latents of each token's patch, [L, B, 16 * patch * patch]."""
        norm_out, size = self.norm_out(args.time_BE), items_within(self.chunk_bytes, 4 * x_LBC[0].nbytes)
        return map_chunks(lambda rows: self.proj_out(norm_out(self.norm_final(x_LBC[rows]))), len(x_LBC), size)


def blocks_of(transformer: CogVideoXTransformer) -> list[nn.Module]:
    """The transformer's blocks in the order they are called: nearly all of its weights."""
    return list(transformer.transformer_blocks)


class PatchEmbed(nn.Module):
    """Text embeddings and latent patches to tokens of the transformer's width."""

    def __init__(self, config: TransformerConfig, ops: Ops) -> None:
        super().__init__()
        patch = config.patch
        self.proj = ops.Conv2d(config.in_channels, config.width, kernel_size=patch, stride=patch)
        self.text_proj = ops.Linear(config.text_dim, config.width)
        self.pos_embedding = (
            nn.Parameter(torch.zeros(1, config.learned_positions, config.width)) if config.learned_positions else None
        )

    def forward(self, x_BCTHW: Tensor, context_BLD: Tensor, chunk_bytes: int = CHUNK_BYTES) -> Tensor:
        """Tokens [L, B, C]: the text's, then the video's in the order time, height, width."""
        text_LBC = self.text_proj(context_BLD).transpose(0, 1)
        x_TBCHW = rearrange(x_BCTHW, "B C T H W -> T B C H W")
        patches = x_BCTHW[0, 0, 0].numel() // self.proj.stride[0] ** 2

        def embed(frames: slice) -> Tensor:
            embedded_NCHW = self.proj(x_TBCHW[frames].flatten(0, 1))
            return rearrange(embedded_NCHW, "(T B) C H W -> T (H W) B C", B=len(x_BCTHW))

        if torch.is_grad_enabled():
            x_LBC = torch.cat([text_LBC, embed(slice(None)).flatten(0, 1)])
        else:
            text_tokens, frames = len(text_LBC), len(x_TBCHW)
            x_LBC = text_LBC.new_empty(text_tokens + frames * patches, *text_LBC.shape[1:])
            x_LBC[:text_tokens] = text_LBC
            size = items_within(chunk_bytes, 2 * patches * text_LBC[0].nbytes)
            map_chunks(embed, frames, size, x_LBC[text_tokens:].unflatten(0, (frames, patches)))
        return x_LBC if self.pos_embedding is None else x_LBC + self._positions(x_LBC, len(text_LBC))

    def _positions(self, x_LBC: Tensor, text_tokens: int) -> Tensor:
        """Learned position embeddings of the tokens, [L, 1, C]."""
        assert self.pos_embedding is not None
        table, length = self.pos_embedding.shape[1], len(x_LBC)
        if length > table:
            raise ValueError(
                f"this model has learned positions for {table} tokens, but {text_tokens} of text and "
                f"{length - text_tokens} of video were given; make fewer frames"
            )
        return self.pos_embedding.to(x_LBC)[:, :length].transpose(0, 1)


class TimeEmbedding(nn.Module):
    """Timestep to the embedding that modulates all adaptive norms."""

    def __init__(self, width: int, time_dim: int, ops: Ops) -> None:
        super().__init__()
        self.width = width
        self.linear_1 = ops.Linear(width, time_dim)
        self.linear_2 = ops.Linear(time_dim, time_dim)

    def forward(self, timestep_B: Tensor, dtype: torch.dtype) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(sinusoid(timestep_B, self.width).to(dtype))))


class OutNorm(nn.Module):
    """Final adaptive layer norm: shift and scale from the timestep."""

    def __init__(self, width: int, time_dim: int, ops: Ops) -> None:
        super().__init__()
        self.linear = ops.Linear(time_dim, 2 * width)
        self.norm = ops.LayerNorm(width, eps=1e-5)

    def forward(self, time_BE: Tensor) -> Callable[[Tensor], Tensor]:
        """Bind the norm and its modulation: a function of tokens [L, B, C]."""
        shift, scale = self.linear(time_BE).chunk(2, dim=1)
        return lambda x_LBC: torch.addcmul(shift, self.norm(x_LBC), 1 + scale)
