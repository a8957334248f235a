"""The two references of CogVideoX at narrow widths, as `references` does for SVD.

Our names are diffusers', so weights go into diffusers as they are and into DiffSynth through its own converters.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import T5Config

from exvideo_core import CogVideoXPipeline
from exvideo_core.families.cogvideox.config import TransformerConfig, VAEConfig
from exvideo_core.families.cogvideox.vae import SCALING_FACTOR
from parity.references import Weights, diffsynth, load_strictly, narrowed, quarter

Rotary = tuple[Tensor, Tensor]  # cosines and sines, [tokens, head_dim]

# DiffSynth-Studio 1.1.9


def diffsynth_transformer(ours: Weights, config: TransformerConfig) -> nn.Module:
    """DiffSynth's transformer, which has heads of 64 channels only."""
    cls = diffsynth("models.cog_dit").CogDiT
    published = TransformerConfig()

    def build() -> nn.Module:
        dit = cls()
        dit.blocks = dit.blocks[: config.layers]
        return dit

    def narrow(size: int) -> int:
        if size % published.width == 0:
            return size // published.width * config.width
        return {published.time_dim: config.time_dim, published.text_dim: config.text_dim}.get(size, size)

    return load_strictly(narrowed(build, narrow), cls.state_dict_converter().from_diffusers(ours))


def diffsynth_rotary(frames: int, height: int, width: int, head_dim: int = 64) -> Rotary:
    """DiffSynth's cosines and sines for a clip of so many tokens."""
    cls = diffsynth("models.cog_dit").CogDiT
    region = cls.get_resize_crop_region_for_grid(None, (height, width), 45, 30)
    return cls.get_3d_rotary_pos_embed(None, head_dim, region, (height, width), frames)


def diffsynth_vae(ours: Weights) -> tuple[Any, Any]:
    """DiffSynth's two halves of the autoencoder; both scale by 0.7 themselves."""
    module = diffsynth("models.cog_vae")
    encoder, decoder = (
        load_strictly(narrowed(cls, quarter), cls.state_dict_converter().from_diffusers(_half(ours, half)))
        for half, cls in (("encoder.", module.CogVAEEncoder), ("decoder.", module.CogVAEDecoder))
    )
    return encoder, decoder


def _half(ours: Weights, half: str) -> dict[str, Tensor]:
    return {name: weight for name, weight in ours.items() if name.startswith(half)}


def diffsynth_text_encoder(ours: Weights, config: T5Config) -> nn.Module:
    """DiffSynth's T5."""
    return load_strictly(diffsynth("models.flux_text_encoder").FluxTextEncoder2(config), ours)


def diffsynth_prompter(text_encoder: nn.Module | None = None) -> Any:
    """DiffSynth's way from prompts to embeddings, with the tokenizer it comes with."""
    unused = ModuleType("diffsynth.models.model_manager")
    unused.ModelManager = None  # only named in signatures
    sys.modules[unused.__name__] = unused
    prompter = diffsynth("prompters.cog_prompter").CogPrompter()
    prompter.fetch_models(text_encoder)
    return prompter


def diffsynth_pipeline(pipe: CogVideoXPipeline) -> Any:
    """DiffSynth's own CogVideoX pipeline with our weights, in float32 on the CPU."""
    assert pipe.text_encoder
    text_encoder = pipe.text_encoder.t5
    prompter = diffsynth_prompter(diffsynth_text_encoder(text_encoder.state_dict(), text_encoder.config))
    models, prompters, schedulers = (diffsynth(name) for name in ("models", "prompters", "schedulers"))
    models.ModelManager = models.FluxTextEncoder2 = None  # only named in signatures
    models.CogDiT = diffsynth("models.cog_dit").CogDiT
    models.CogVAEEncoder = models.CogVAEDecoder = None
    prompters.CogPrompter = type(prompter)
    schedulers.EnhancedDDIMScheduler = diffsynth("schedulers.ddim").EnhancedDDIMScheduler
    reference = diffsynth("pipelines.cog_video").CogVideoPipeline(device="cpu", torch_dtype=torch.float32)
    reference.prompter = prompter
    reference.dit = diffsynth_transformer(pipe.transformer.state_dict(), pipe.transformer.config)
    reference.vae_encoder, reference.vae_decoder = diffsynth_vae(pipe.vae.state_dict())
    return reference


def run_diffsynth(pipe: Any, unit: Tensor, *prompts: str, **settings: Any) -> Tensor:
    """Latents that DiffSynth's own run would decode, with the given noise in place of what it would draw."""
    kept: list[Tensor] = []

    def keep(latents: Tensor, **_: Any) -> Tensor:
        kept.append(latents.clone())
        return torch.zeros(1, 3, 1, 8, 8)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipe, "generate_noise", lambda *_, **__: unit)
        patch.setattr(pipe.vae_decoder, "decode_video", keep)
        pipe(*prompts, progress_bar_cmd=lambda steps: steps, **settings)
    return kept[0]


def diffsynth_scheduler(steps: int, denoise: float = 1.0) -> Any:
    """DiffSynth's scheduler, set as its CogVideoX pipeline has it."""
    cls = diffsynth("schedulers.ddim").EnhancedDDIMScheduler
    scheduler = cls(rescale_zero_terminal_snr=True, prediction_type="v_prediction")
    scheduler.set_timesteps(steps, denoising_strength=denoise)
    return scheduler


# diffusers


def diffusers_transformer(
    ours: Weights, config: TransformerConfig, text_tokens: int = 226, sample: tuple[int, int, int] = (13, 60, 90)
) -> Any:
    """diffusers' transformer; with learned positions, for a clip of exactly `sample` latent frames, rows, columns."""
    from diffusers import CogVideoXTransformer3DModel

    frames, height, width = sample
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=config.width // config.head_dim,
        attention_head_dim=config.head_dim,
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        time_embed_dim=config.time_dim,
        text_embed_dim=config.text_dim,
        num_layers=config.layers,
        max_text_seq_length=text_tokens,
        sample_frames=4 * (frames - 1) + 1,
        sample_height=height,
        sample_width=width,
        use_rotary_positional_embeddings=True,
        use_learned_positional_embeddings=config.learned_positions is not None,
    )
    return load_strictly(transformer, ours)


def diffusers_velocity(
    transformer: Any, x_BCTHW: Tensor, timestep: Tensor, context_BLD: Tensor, rotary: Rotary | None = None
) -> Tensor:
    """What diffusers' transformer predicts, with DiffSynth's rotary positions: diffusers 0.42 changed its own."""
    frames, height, width = x_BCTHW.shape[2:]
    if rotary is None:
        rotary = diffsynth_rotary(frames, height // 2, width // 2, transformer.config.attention_head_dim)
    steps = timestep.expand(len(x_BCTHW))
    return transformer(x_BCTHW.transpose(1, 2), context_BLD, steps, image_rotary_emb=rotary).sample.transpose(1, 2)


def diffusers_vae(ours: Weights, config: VAEConfig, groups: int = 32) -> Any:
    """diffusers' autoencoder."""
    from diffusers import AutoencoderKLCogVideoX

    vae = AutoencoderKLCogVideoX(
        scaling_factor=SCALING_FACTOR,
        block_out_channels=config.widths,
        layers_per_block=config.blocks_per_level,
        latent_channels=config.latent_channels,
        norm_num_groups=groups,
    )
    return load_strictly(vae, ours)


# scheduler_config.json of THUDM/CogVideoX-5b
PUBLISHED_SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}
_COGVIDEOX_ONLY = {"snr_shift_scale": 1.0, "clip_sample": False, "set_alpha_to_one": True}


def diffusers_scheduler(name: str, steps: int) -> Any:
    """One of diffusers' schedulers, set as the published model has them."""
    import diffusers

    own = _COGVIDEOX_ONLY if name.startswith("CogVideoX") else {}
    scheduler = getattr(diffusers, name)(**PUBLISHED_SCHEDULER, **own)
    scheduler.set_timesteps(steps)
    return scheduler


def diffusers_pipeline(pipe: CogVideoXPipeline, scheduler: str = "CogVideoXDDIMScheduler") -> Any:
    """diffusers' own CogVideoX pipeline with our weights, and the tokenizer that DiffSynth comes with."""
    from diffusers import CogVideoXPipeline

    reference = CogVideoXPipeline(
        tokenizer=diffsynth_prompter().tokenizer,
        text_encoder=pipe.text_encoder.t5 if pipe.text_encoder else None,
        vae=diffusers_vae(pipe.vae.state_dict(), pipe.vae.config),
        transformer=diffusers_transformer(pipe.transformer.state_dict(), pipe.transformer.config),
        scheduler=diffusers_scheduler(scheduler, 1),
    )
    reference.set_progress_bar_config(disable=True)
    return reference
