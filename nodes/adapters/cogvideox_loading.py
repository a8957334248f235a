"""From CogVideoX's files to ComfyUI's MODEL, CLIP and VAE."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from safetensors import safe_open

from ...exvideo_core.checkpoint.cogvideox import read_text_encoder, read_transformer, read_vae
from ...exvideo_core.errors import CheckpointError
from ...exvideo_core.estimate import cogvideox_line
from .cogvideox_clip import make_clip
from .cogvideox_model import CogVideoXLatents, make_model
from .cogvideox_vae import CogVAE
from .loading import log_estimate

# What a transformer's file may say about previews of its latents, as JSON: [16][3] and [3].
_RGB_FACTORS = "latent_rgb_factors"
_RGB_BIAS = "latent_rgb_factors_bias"

# The second name of the table of words, and what CLIPSave writes of every text model.
_NOT_IN_T5 = ("encoder.embed_tokens.weight", "logit_scale")


def load_cogvideox(
    transformer: Path, text_encoder: Path, vae: Path, dtype: torch.dtype | None
) -> tuple[ModelPatcher, comfy.sd.CLIP, CogVAE]:
    """MODEL, CLIP and VAE; each path is a file, one shard of several, or a folder in diffusers' layout.

    Raises:
        CheckpointError: a file is damaged, or in the wrong slot.
    """
    # dynamic VRAM and several GPUs need fresh copies of a model, and ask for them in `cached_patcher_init`
    model = _load_model(transformer, dtype)
    log_estimate(cogvideox_line, model, lambda *size: [1, 16, *size])
    clip = _load_clip(text_encoder)
    clip.patcher.cached_patcher_init = (_reload_clip, (text_encoder,))
    part = read_vae(vae)
    decoder = CogVAE(part.weights, part.source)
    decoder.patcher.cached_patcher_init = (_reload_vae, (vae,))
    return model, clip, decoder


def _load_model(path: Path, dtype: torch.dtype | None, disable_dynamic: bool = False) -> ModelPatcher:
    part = read_transformer(path)
    model = make_model(part.weights, part.source, dtype, latents=preview_colours(path), disable_dynamic=disable_dynamic)
    model.cached_patcher_init = (_load_model, (path, dtype))
    return model


def _load_clip(path: Path, disable_dynamic: bool = False) -> comfy.sd.CLIP:
    part = read_text_encoder(path)
    weights = {name: weight for name, weight in part.weights.items() if name not in _NOT_IN_T5}
    return make_clip(weights, part.source, disable_dynamic=disable_dynamic)


def _reload_clip(path: Path, disable_dynamic: bool = False) -> ModelPatcher:
    patcher: ModelPatcher = _load_clip(path, disable_dynamic).patcher
    return patcher


def _reload_vae(path: Path, disable_dynamic: bool = False) -> ModelPatcher:
    part = read_vae(path)
    return CogVAE(part.weights, part.source, disable_dynamic=disable_dynamic).patcher


def preview_colours(path: Path) -> CogVideoXLatents:
    """How latents are previewed: as the file says, else as those of the published VAE."""
    if not path.is_file() or path.suffix != ".safetensors":
        return CogVideoXLatents()
    with safe_open(path, "pt") as file:
        notes: dict[str, Any] = file.metadata() or {}
    if _RGB_FACTORS not in notes:
        return CogVideoXLatents()
    try:
        factors = torch.tensor(json.loads(notes[_RGB_FACTORS]), dtype=torch.float32)
        bias = torch.tensor(json.loads(notes.get(_RGB_BIAS, "[0, 0, 0]")), dtype=torch.float32)
        fits = factors.shape == (CogVideoXLatents.latent_channels, 3) and bias.shape == (3,)
    except (ValueError, TypeError):
        fits = False
    if not fits:
        raise CheckpointError(
            f"{path.name} has notes for previews that cannot be read ({_RGB_FACTORS} is a JSON list of 16 rows of 3 "
            f"numbers, {_RGB_BIAS} one of 3). Save it again without them."
        )
    return CogVideoXLatents(factors.tolist(), bias.tolist())
