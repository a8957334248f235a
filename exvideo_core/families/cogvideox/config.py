"""Sizes of CogVideoX's networks (arXiv:2408.06072), read from the tensors of a checkpoint.

Narrow models are supported: the network gets the widths and depths that the file has.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...nn.sizes import Shapes, complete, count


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """The transformer; defaults are CogVideoX-5B's."""

    in_channels: int = 16  # 32 for image to video: noisy latents, then the image's
    out_channels: int = 16
    width: int = 3072
    head_dim: int = 64
    layers: int = 42
    hidden: int = 12288  # of the feed-forwards
    time_dim: int = 512  # of the time embedding
    text_dim: int = 4096  # of the text encoder
    patch: int = 2  # latent cells along one side of a token
    learned_positions: int | None = None  # rows of the image-to-video model's position table; else None

    @classmethod
    @complete(
        "CogVideoX transformer",
        " Choose the transformer of THUDM/CogVideoX-5b, or download it again if it is incomplete.",
    )
    def from_shapes(cls, shapes: Shapes) -> TransformerConfig:
        """Infer the sizes from names and shapes in diffusers' naming."""
        layers = count(shapes, "transformer_blocks.*.attn1.to_q.weight")
        width, in_channels, patch, _ = shapes["patch_embed.proj.weight"]
        positions = shapes.get("patch_embed.pos_embedding")
        return cls(
            in_channels=in_channels,
            out_channels=shapes["proj_out.weight"][0] // patch**2,
            width=width,
            head_dim=shapes["transformer_blocks.0.attn1.norm_q.weight"][0],
            layers=layers,
            hidden=shapes["transformer_blocks.0.ff.net.0.proj.weight"][0],
            time_dim=shapes["time_embedding.linear_1.weight"][0],
            text_dim=shapes["patch_embed.text_proj.weight"][1],
            patch=patch,
            learned_positions=positions[1] if positions else None,
        )


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """The causal video autoencoder: a latent cell is 8x8 pixels of 4 frames, or of the first frame alone."""

    widths: tuple[int, ...] = (128, 256, 256, 512)  # channels per level, finest first
    blocks_per_level: int = 3  # of the encoder; the decoder has one more
    latent_channels: int = 16

    @classmethod
    @complete("CogVideoX VAE")
    def from_shapes(cls, shapes: Shapes) -> VAEConfig:
        """Infer the sizes from names and shapes in diffusers' naming: `encoder.*`, `decoder.*`."""
        levels = count(shapes, "encoder.down_blocks.*.resnets.0.conv1.conv.weight")
        blocks = count(shapes, "encoder.down_blocks.0.resnets.*.conv1.conv.weight")
        widths = tuple(shapes[f"encoder.down_blocks.{i}.resnets.0.conv1.conv.weight"][0] for i in range(levels))
        latent_channels = shapes["decoder.conv_in.conv.weight"][1]
        return cls(widths=widths, blocks_per_level=blocks, latent_channels=latent_channels)
