"""CogVideoX's transformer with rotary positions, the 5B model of version 1.0 (arXiv:2408.06072).

Parameter names are those of the published files (diffusers' naming), so they load as they are.
Shapes: B clips, C channels, T latent frames, H W latent height and width, L tokens, D channels of the text,
N heads, E channels of the time embedding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ...attention import Attention, sdpa
from ..layers import Ops, sinusoid
from .config import TransformerConfig
from .positions import rotary_angles, rotate

Turn = tuple[Tensor, Tensor]  # cosine and sine of the rotary angles, [L, D / 2] or [B, 1, L, D / 2]


class CogVideoXTransformer(nn.Module):
    """Predicts v from noisy latents, a timestep and a text.

    Args:
        config: sizes; `TransformerConfig.from_shapes` reads them from a checkpoint.
        ops: where the layers come from.
        attention: see `exvideo_core.attention`.
    """

    def __init__(self, config: TransformerConfig, ops: Ops = nn, attention: Attention = sdpa) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config, ops)
        self.time_embedding = TimeEmbedding(config.width, config.time_dim, ops)
        self.transformer_blocks = nn.ModuleList(Block(config, ops, attention) for _ in range(config.layers))
        self.norm_final = ops.LayerNorm(config.width, eps=1e-5)
        self.norm_out = OutNorm(config.width, config.time_dim, ops)
        self.proj_out = ops.Linear(config.width, config.patch**2 * config.out_channels)

    def forward(
        self, x_BCTHW: Tensor, timestep: Tensor | float, context_BLD: Tensor, times: Tensor | None = None
    ) -> Tensor:
        """Predict v.

        Args:
            x_BCTHW: [B, 16, T, H, W] at unit variance; H and W are multiples of the patch size. The image-to-video
                variant takes 32 channels: the noisy latents, then the picture's.
            timestep: 0 to 999, a number, [1] or [B].
            context_BLD: text embeddings, [B, 226, D] or [1, 226, D].
            times: numbers of the latent frames in the whole clip, [T] or [B, T]; 0 to T - 1 where nothing is said.

        Returns:
            [B, 16, T, H, W].
        """
        batch, _, frames, height, width = x_BCTHW.shape
        patch = self.config.patch
        if height % patch or width % patch:
            raise ValueError(f"height and width must be multiples of {patch} latent cells, not {height} and {width}")
        if times is None:
            times = torch.arange(frames)
        angles = rotary_angles(times.to(x_BCTHW.device), height // patch, width // patch, self.config.head_dim)
        if times.ndim == 2:
            angles = angles[:, None]  # the same for all heads
        turn = angles.cos(), angles.sin()
        steps = torch.as_tensor(timestep, device=x_BCTHW.device).expand(batch)
        time_BE = self.time_embedding(steps, x_BCTHW.dtype)
        text_BLC, video_BLC = self.patch_embed(x_BCTHW, context_BLD.to(x_BCTHW).expand(batch, -1, -1))
        for block in self.transformer_blocks:
            text_BLC, video_BLC = block(text_BLC, video_BLC, time_BE, turn)
        video_BLC = self.proj_out(self.norm_out(self.norm_final(video_BLC), time_BE))
        return rearrange(
            video_BLC,
            "B (T H W) (C P Q) -> B C T (H P) (W Q)",
            T=frames,
            H=height // patch,
            P=patch,
            Q=patch,
        )


class PatchEmbed(nn.Module):
    """Text and picture to tokens of one width."""

    def __init__(self, config: TransformerConfig, ops: Ops) -> None:
        super().__init__()
        patch = config.patch
        self.proj = ops.Conv2d(config.in_channels, config.width, kernel_size=patch, stride=patch)
        self.text_proj = ops.Linear(config.text_dim, config.width)
        self.pos_embedding = (
            nn.Parameter(torch.zeros(1, config.learned_positions, config.width)) if config.learned_positions else None
        )

    def forward(self, x_BCTHW: Tensor, context_BLD: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens of the text and of the video, the latter in the order time, height, width."""
        frames_FCHW = self.proj(rearrange(x_BCTHW, "B C T H W -> (B T) C H W"))
        video_BLC = rearrange(frames_FCHW, "(B T) C H W -> B (T H W) C", B=len(x_BCTHW))
        text_BLC = self.text_proj(context_BLD)
        if self.pos_embedding is None:
            return text_BLC, video_BLC
        places_1LC = self.pos_embedding.to(video_BLC)
        words, patches = text_BLC.shape[1], video_BLC.shape[1]
        if words + patches > places_1LC.shape[1]:
            raise ValueError(
                f"this model has learned positions for {places_1LC.shape[1]} tokens, but {words} of text and "
                f"{patches} of video were given; make fewer frames"
            )
        return text_BLC + places_1LC[:, :words], video_BLC + places_1LC[:, words : words + patches]


class TimeEmbedding(nn.Module):
    """Timestep to the vector that modulates all norms."""

    def __init__(self, width: int, time_dim: int, ops: Ops) -> None:
        super().__init__()
        self.width = width
        self.linear_1 = ops.Linear(width, time_dim)
        self.linear_2 = ops.Linear(time_dim, time_dim)

    def forward(self, timestep_B: Tensor, dtype: torch.dtype) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(sinusoid(timestep_B, self.width).to(dtype))))


class Block(nn.Module):
    """Attention over text and video together, then a feed-forward; both gated by the timestep."""

    def __init__(self, config: TransformerConfig, ops: Ops, attention: Attention) -> None:
        super().__init__()
        self.norm1 = GatedNorm(config.width, config.time_dim, ops)
        self.attn1 = JointAttention(config.width, config.head_dim, ops, attention)
        self.norm2 = GatedNorm(config.width, config.time_dim, ops)
        self.ff = FeedForward(config.width, config.hidden, ops)

    def forward(self, text_BLC: Tensor, video_BLC: Tensor, time_BE: Tensor, turn: Turn) -> tuple[Tensor, Tensor]:
        words = text_BLC.shape[1]
        for norm, layer in ((self.norm1, self._attend), (self.norm2, self._feed)):
            text_in, video_in, text_gate, video_gate = norm(text_BLC, video_BLC, time_BE)
            out_BLC = layer(torch.cat([text_in, video_in], dim=1), words, turn)
            text_BLC = torch.addcmul(text_BLC, text_gate, out_BLC[:, :words])
            video_BLC = torch.addcmul(video_BLC, video_gate, out_BLC[:, words:])
        return text_BLC, video_BLC

    def _attend(self, x_BLC: Tensor, words: int, turn: Turn) -> Tensor:
        return self.attn1(x_BLC, words, turn)

    def _feed(self, x_BLC: Tensor, _words: int, _turn: Turn) -> Tensor:
        return self.ff(x_BLC)


class GatedNorm(nn.Module):
    """One norm for text and video, with shift, scale and gate of each from the timestep."""

    def __init__(self, width: int, time_dim: int, ops: Ops) -> None:
        super().__init__()
        self.linear = ops.Linear(time_dim, 6 * width)
        self.norm = ops.LayerNorm(width, eps=1e-5)

    def forward(self, text_BLC: Tensor, video_BLC: Tensor, time_BE: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Text, video, text's gate, video's gate."""
        modulation = self.linear(F.silu(time_BE))[:, None].chunk(6, dim=2)
        video_shift, video_scale, video_gate, text_shift, text_scale, text_gate = modulation
        text_BLC = torch.addcmul(text_shift, self.norm(text_BLC), 1 + text_scale)
        video_BLC = torch.addcmul(video_shift, self.norm(video_BLC), 1 + video_scale)
        return text_BLC, video_BLC, text_gate, video_gate


class OutNorm(nn.Module):
    """The last norm, shifted and scaled by the timestep."""

    def __init__(self, width: int, time_dim: int, ops: Ops) -> None:
        super().__init__()
        self.linear = ops.Linear(time_dim, 2 * width)
        self.norm = ops.LayerNorm(width, eps=1e-5)

    def forward(self, video_BLC: Tensor, time_BE: Tensor) -> Tensor:
        shift, scale = self.linear(F.silu(time_BE))[:, None].chunk(2, dim=2)
        return torch.addcmul(shift, self.norm(video_BLC), 1 + scale)


class JointAttention(nn.Module):
    """Attention of all tokens to all; only those of the video have positions."""

    def __init__(self, width: int, head_dim: int, ops: Ops, attention: Attention) -> None:
        super().__init__()
        self.heads = width // head_dim
        self.attention = attention
        self.to_q = ops.Linear(width, width)
        self.to_k = ops.Linear(width, width)
        self.to_v = ops.Linear(width, width)
        self.norm_q = ops.LayerNorm(head_dim, eps=1e-6)
        self.norm_k = ops.LayerNorm(head_dim, eps=1e-6)
        self.to_out = nn.Sequential(ops.Linear(width, width))

    def forward(self, x_BLC: Tensor, words: int, turn: Turn) -> Tensor:
        q, k, v = (
            rearrange(layer(x_BLC), "B L (N D) -> B N L D", N=self.heads) for layer in (self.to_q, self.to_k, self.to_v)
        )
        q, k = (self._place(x, words, turn) for x in (self.norm_q(q), self.norm_k(k)))
        return self.to_out(rearrange(self.attention(q, k, v), "B N L D -> B L (N D)"))

    @staticmethod
    def _place(x_BNLD: Tensor, words: int, turn: Turn) -> Tensor:
        return torch.cat([x_BNLD[:, :, :words], rotate(x_BNLD[:, :, words:], *turn)], dim=2)


class FeedForward(nn.Module):
    """C -> 4C -> C."""

    def __init__(self, width: int, hidden: int, ops: Ops) -> None:
        super().__init__()
        # index 1 was a dropout in the published code, so the names go on with 2
        self.net = nn.Sequential(Activated(width, hidden, ops), nn.Identity(), ops.Linear(hidden, width))

    def forward(self, x_BLC: Tensor) -> Tensor:
        return self.net(x_BLC)


class Activated(nn.Module):
    """A linear layer and the activation after it."""

    def __init__(self, width: int, hidden: int, ops: Ops) -> None:
        super().__init__()
        self.proj = ops.Linear(width, hidden)

    def forward(self, x_BLC: Tensor) -> Tensor:
        return F.gelu(self.proj(x_BLC), approximate="tanh")
