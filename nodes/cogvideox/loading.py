"""From CogVideoX's files to ComfyUI's MODEL, CLIP and VAE."""

from __future__ import annotations

from pathlib import Path

import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher

from ...exvideo_core.families.cogvideox.checkpoint import read_text_encoder, read_transformer, read_vae
from ..comfy_bridge.loading import log_estimate, make_model, preview_latents
from .clip import make_clip
from .model import CogVideoXLatents, CogVideoXModel
from .vae import CogVAE

# A second name of the token embedding, and a scalar that CLIPSave writes for every text model.
_NOT_IN_T5 = ("encoder.embed_tokens.weight", "logit_scale")


def load_cogvideox(
    transformer: Path, text_encoder: Path, vae: Path, dtype: torch.dtype | None
) -> tuple[ModelPatcher, comfy.sd.CLIP, CogVAE]:
    """MODEL, CLIP and VAE; each path is a file, one shard of several, or a folder in diffusers' layout.

    Raises:
        CheckpointError: a file is damaged, or in the wrong slot.
    """
    model = _load_model(transformer, dtype)
    log_estimate(model)
    clip = _load_clip(text_encoder)
    clip.patcher.cached_patcher_init = (_reload_clip, (text_encoder,))
    part = read_vae(vae)
    decoder = CogVAE(part.weights, part.source)
    decoder.patcher.cached_patcher_init = (_reload_vae, (vae,))
    return model, clip, decoder


# Dynamic VRAM and several GPUs need fresh copies of a model: ComfyUI calls what `cached_patcher_init` names.


def _load_model(path: Path, dtype: torch.dtype | None, disable_dynamic: bool = False) -> ModelPatcher:
    part = read_transformer(path)
    latents = preview_latents(CogVideoXLatents, part.notes, part.source)
    model = make_model(
        CogVideoXModel, part.weights, part.source, dtype, latents=latents, disable_dynamic=disable_dynamic
    )
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
