"""From SVD's files to ComfyUI's MODEL, CLIP_VISION and VAE."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher

from ...exvideo_core.families.svd import detect
from ...exvideo_core.families.svd.checkpoint import UNET, SVDWeights, read_extension, read_svd
from ...exvideo_core.weights.assign import shapes_of
from ...exvideo_core.weights.safetensors_files import open_weights
from ..comfy_bridge.loading import log_estimate, make_model, preview_latents
from .clip_vision import make_clip_vision
from .model import SVDLatents, SVDModel
from .vae import SVDVAE


def load_svd(checkpoint: Path, extension: Path | None, dtype: torch.dtype | None) -> tuple[ModelPatcher, Any, Any]:
    """MODEL, CLIP_VISION and VAE of a checkpoint; the last two are None for a file that `ModelSave` wrote.

    Raises:
        CheckpointError: a file is damaged, in the wrong slot, or the two do not belong together.
    """
    weights = read_weights(checkpoint, extension)
    model = _make_model(weights, checkpoint, extension, dtype)
    log_estimate(model)
    if not weights.vae:
        return model, None, None
    return model, make_clip_vision(weights), _make_vae(weights, checkpoint)


def read_weights(checkpoint: Path, extension: Path | None) -> SVDWeights:
    """Weights of a complete checkpoint (the core's `read_svd`), or of a UNet alone, as `ModelSave` writes it."""
    if checkpoint.is_dir():
        return read_svd(checkpoint, extension)
    file = open_weights(checkpoint)
    if (file.identity.kind, file.identity.naming) != (detect.UNET, "sgm"):
        return read_svd(file, extension)
    unet = {name.removeprefix(UNET): file[name] for name in file}
    table = unet.get("middle_block.1.extension.positions.weight")
    weights = SVDWeights(
        unet=unet,
        vae={},
        image_encoder={},
        extension_frames=None if table is None else table.shape[0],
        sources=(checkpoint.name,),
        notes=file.notes,
    )
    return weights if extension is None else _extended(weights, extension)


def _extended(weights: SVDWeights, extension: Path) -> SVDWeights:
    base = {name: weight for name, weight in weights.unet.items() if ".extension." not in name}
    new = read_extension(extension, shapes_of(base))
    return replace(weights, unet=base | new, sources=(*weights.sources, extension.name))


# Dynamic VRAM and several GPUs need fresh copies of a model: ComfyUI calls what `cached_patcher_init` names.


def _make_model(
    weights: SVDWeights,
    checkpoint: Path,
    extension: Path | None,
    dtype: torch.dtype | None,
    disable_dynamic: bool = False,
) -> ModelPatcher:
    latents = preview_latents(SVDLatents, weights.notes, weights.sources[0])
    source = " + ".join(weights.sources)
    model = make_model(SVDModel, weights.unet, source, dtype, latents=latents, disable_dynamic=disable_dynamic)
    model.cached_patcher_init = (_reload_model, (checkpoint, extension, dtype))
    return model


def _reload_model(
    checkpoint: Path, extension: Path | None, dtype: torch.dtype | None, disable_dynamic: bool = False
) -> ModelPatcher:
    return _make_model(read_weights(checkpoint, extension), checkpoint, extension, dtype, disable_dynamic)


def _make_vae(weights: SVDWeights, checkpoint: Path, disable_dynamic: bool = False) -> SVDVAE:
    vae = SVDVAE(weights.vae, " + ".join(weights.sources), disable_dynamic=disable_dynamic)
    vae.patcher.cached_patcher_init = (_reload_vae, (checkpoint,))
    return vae


def _reload_vae(checkpoint: Path, disable_dynamic: bool = False) -> ModelPatcher:
    return _make_vae(read_weights(checkpoint, None), checkpoint, disable_dynamic).patcher
