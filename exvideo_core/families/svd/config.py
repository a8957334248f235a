"""Sizes of Stable Video Diffusion's networks (arXiv:2311.15127), read from the tensors of a checkpoint.

Narrow models are supported: the network gets the widths and depths that the file has.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from ...nn.sizes import Shapes, check_depth, complete, count


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """The spatio-temporal UNet, in the layout of the sgm code base."""

    in_channels: int = 8  # 4 of the noisy latents, 4 of the conditioning image
    out_channels: int = 4
    widths: tuple[int, ...] = (320, 640, 1280, 1280)  # channels per level
    blocks_per_level: int = 2
    attention_levels: tuple[int, ...] = (0, 1, 2)
    context_dim: int = 1024  # of the image embedding
    time_dim: int = 1280  # of the time embedding
    id_dim: int = 256  # of the sinusoidal embeddings of fps, motion bucket and noise augmentation
    extension_frames: int | None = None  # rows of ExVideo's position table; None is the base model

    @classmethod
    @complete("SVD UNet", " Choose a file like svd_xt.safetensors, or download it again if it is incomplete.")
    def from_shapes(cls, shapes: Shapes) -> UNetConfig:
        """Infer the sizes from names and shapes in sgm naming, without the `model.diffusion_model.` prefix."""
        widths: list[int] = []
        attention_levels: list[int] = []
        level_blocks, blocks_per_level = 0, 0
        for index in itertools.count(1):
            block = f"input_blocks.{index}"
            if f"{block}.0.op.weight" in shapes:  # downsampling
                level_blocks = 0
                continue
            if f"{block}.0.in_layers.2.weight" not in shapes:
                break
            if level_blocks == 0:
                widths.append(shapes[f"{block}.0.in_layers.2.weight"][0])
                if f"{block}.1.proj_in.weight" in shapes:
                    attention_levels.append(len(widths) - 1)
            level_blocks += 1
            blocks_per_level = max(blocks_per_level, level_blocks)
        check_depth(index - 1, len(widths))
        table = shapes.get("middle_block.1.extension.positions.weight")
        return cls(
            in_channels=shapes["input_blocks.0.0.weight"][1],
            out_channels=shapes["out.2.weight"][0],
            widths=tuple(widths),
            blocks_per_level=blocks_per_level,
            attention_levels=tuple(attention_levels),
            context_dim=shapes["middle_block.1.transformer_blocks.0.attn2.to_k.weight"][1],
            time_dim=shapes["time_embed.0.weight"][0],
            id_dim=shapes["label_emb.0.0.weight"][1] // 3,
            extension_frames=table[0] if table else None,
        )


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """The image encoder half and the temporal decoder half of SVD's autoencoder; a latent cell is 8x8 pixels."""

    widths: tuple[int, ...] = (128, 256, 512, 512)  # channels per level, finest first
    blocks_per_level: int = 2  # of the encoder; the decoder has one more
    latent_channels: int = 4

    @classmethod
    @complete("SVD autoencoder")
    def from_shapes(cls, shapes: Shapes) -> VAEConfig:
        """Infer the sizes from names and shapes in sgm naming: `encoder.*`, `quant_conv.*`, `decoder.*`."""
        levels = count(shapes, "encoder.down.*.block.0.conv1.weight")
        blocks = count(shapes, "encoder.down.0.block.*.conv1.weight")
        widths = tuple(shapes[f"encoder.down.{level}.block.0.conv1.weight"][0] for level in range(levels))
        return cls(widths=widths, blocks_per_level=blocks, latent_channels=shapes["decoder.conv_in.weight"][1])


def num_heads(channels: int) -> int:
    """Attention heads of a level: 64 channels each, at least one."""
    return max(1, channels // 64)


@dataclass(frozen=True, kw_only=True)
class ImageEncoderConfig:
    """CLIP's vision tower with projection, ViT-H/14 as published; the names are those of transformers' config."""

    hidden_size: int = 1280
    num_hidden_layers: int = 32
    num_attention_heads: int = 16
    intermediate_size: int = 5120  # of the feed-forwards
    patch_size: int = 14  # pixels
    image_size: int = 224  # pixels
    projection_dim: int = 1024  # of the projected output

    @classmethod
    @complete("CLIP image encoder")
    def from_shapes(cls, shapes: Shapes) -> ImageEncoderConfig:
        """Infer the sizes from names and shapes; heads have 80 channels where that divides the width, else 64."""
        layers = count(shapes, "vision_model.encoder.layers.*.mlp.fc1.weight")
        width, _, _, patch = shapes["vision_model.embeddings.patch_embedding.weight"]
        cells = shapes["vision_model.embeddings.position_embedding.weight"][0] - 1
        hidden = shapes["vision_model.encoder.layers.0.mlp.fc1.weight"][0]
        for i in range(layers):  # checked here, because hosts allocate the network before they compare shapes
            layer = f"vision_model.encoder.layers.{i}"
            found = shapes[f"{layer}.self_attn.q_proj.weight"], shapes[f"{layer}.mlp.fc1.weight"]
            if found != ((width, width), (hidden, width)):
                raise ValueError(f"layer {i} is not {width} wide")
        return cls(
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=width // 80 if width % 80 == 0 else num_heads(width),
            intermediate_size=hidden,
            patch_size=patch,
            image_size=patch * math.isqrt(cells),
            projection_dim=shapes["visual_projection.weight"][0],
        )
