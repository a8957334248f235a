"""Narrow CogVideoX networks with random weights, made like those of `narrow_svd`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from narrow_svd import fill, noise
from safetensors.torch import save_file

from exvideo_core import CogVideoXPipeline
from exvideo_core.families.cogvideox.config import TransformerConfig, VAEConfig
from exvideo_core.families.cogvideox.keys import FROM_COMFYUI
from exvideo_core.families.cogvideox.text_encoder import TextEncoder, TextEncoderConfig, Tokenizer, build_t5
from exvideo_core.families.cogvideox.transformer import CogVideoXTransformer
from exvideo_core.families.cogvideox.vae import CogVideoXVAE
from exvideo_core.weights.names import rename


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Of all three networks."""

    transformer: TransformerConfig
    vae: VAEConfig
    text_encoder: TextEncoderConfig


# The published layout in two heads and two layers, and a quarter of the autoencoder's widths: all norms keep their 32
# groups.
NARROW = Sizes(
    transformer=TransformerConfig(width=128, layers=2, hidden=512, time_dim=32, text_dim=40),
    vae=VAEConfig(widths=(32, 64, 64, 128)),
    text_encoder=TextEncoderConfig(d_model=40, num_layers=2, num_heads=4, d_kv=16, d_ff=64),
)
# The least that has every part.
TINY = Sizes(
    transformer=TransformerConfig(width=32, head_dim=16, layers=2, hidden=64, time_dim=16, text_dim=8),
    vae=VAEConfig(widths=(8, 8, 16, 16), blocks_per_level=1),
    text_encoder=TextEncoderConfig(d_model=8, num_layers=1, num_heads=2, d_kv=4, d_ff=16),
)


def build_transformer(config: TransformerConfig = TINY.transformer, seed: int = 0) -> CogVideoXTransformer:
    """A transformer; learned positions are as large as what they are added to."""
    transformer = CogVideoXTransformer(config)
    fill(transformer, seed)
    if transformer.patch_embed.pos_embedding is not None:
        transformer.patch_embed.pos_embedding.data = noise(1, config.learned_positions or 0, config.width, seed=seed)
    return transformer.eval()


def transformer_to_comfyui(name: str) -> str:
    """Rename a weight of the transformer to its name in ComfyUI's class."""
    return rename(name, {ours: comfyuis for comfyuis, ours in FROM_COMFYUI.items()}, "the transformer")


def build_vae(config: VAEConfig = TINY.vae, seed: int = 0) -> CogVideoXVAE:
    """CogVideoX's autoencoder."""
    vae = CogVideoXVAE(config)
    fill(vae, seed)
    return vae.eval()


def build_text_encoder(config: TextEncoderConfig = TINY.text_encoder, seed: int = 0) -> TextEncoder:
    """T5 with its real tokenizer."""
    encoder = TextEncoder(build_t5(config), Tokenizer())
    fill(encoder, seed)
    return encoder.eval()


def build_pipeline(sizes: Sizes = TINY, seed: int = 0) -> CogVideoXPipeline:
    """All three."""
    return CogVideoXPipeline(
        build_transformer(sizes.transformer, seed),
        build_vae(sizes.vae, seed),
        build_text_encoder(sizes.text_encoder, seed),
    )


def save_files(folder: Path, sizes: Sizes = TINY, seed: int = 0) -> tuple[Path, Path]:
    """Transformer and autoencoder as single files in the published names."""
    parts = {"transformer": build_transformer(sizes.transformer, seed), "vae": build_vae(sizes.vae, seed)}
    paths = {name: folder / f"cogvideox_{name}.safetensors" for name in parts}
    for name, part in parts.items():
        save_file(part.state_dict(), paths[name])
    return paths["transformer"], paths["vae"]
