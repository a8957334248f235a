"""From files to ComfyUI's MODEL, CLIP_VISION and VAE."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher

from ...exvideo_core.estimate import svd_line
from ...exvideo_core.families.svd import detect
from ...exvideo_core.families.svd.checkpoint import UNET, SVDWeights, read_extension, read_svd
from ...exvideo_core.weights.detect import identify
from ...exvideo_core.weights.preview_colours import read_colours
from ...exvideo_core.weights.safetensors_files import open_weights
from .clip_vision import make_clip_vision
from .model import SVDLatents, make_model
from .vae import SVDVAE

WEIGHT_TYPES = {
    "default": None,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp32": torch.float32,
    "fp8_e4m3fn": torch.float8_e4m3fn,
}


def load_svd(checkpoint: Path, extension: Path | None, dtype: torch.dtype | None) -> tuple[ModelPatcher, Any, Any]:
    """MODEL, CLIP_VISION and VAE of a checkpoint; the last two are None for a file that `ModelSave` wrote.

    Raises:
        CheckpointError: a file is damaged, in the wrong slot, or the two do not belong together.
    """
    weights = read_weights(checkpoint, extension)
    model = make_model(weights, dtype, latents=preview_colours(checkpoint))
    log_estimate(svd_line, model, lambda *size: [size[0], 4, *size[1:]])
    # dynamic VRAM and several GPUs need fresh copies of a model, and ask for them here
    model.cached_patcher_init = (_reload_model, (checkpoint, extension, dtype))
    if not weights.vae:
        return model, None, None
    vae = _make_vae(weights)
    vae.patcher.cached_patcher_init = (_reload_vae, (checkpoint,))
    return model, make_clip_vision(weights), vae


def preview_colours(checkpoint: Path) -> SVDLatents:
    """How latents are previewed: as the file says, else as those of the published VAE."""
    colours = read_colours(checkpoint, SVDLatents.latent_channels)
    return SVDLatents() if colours is None else SVDLatents(colours.factors, colours.bias)


def log_estimate(line: Callable[..., str], patcher: ModelPatcher, shape: Callable[[int, int, int], list[int]]) -> None:
    """Say in the log what the clip that most people make will take.

    Args:
        line: says it, such as `svd_line`.
        patcher: the model.
        shape: of its latents, from frames, height and width.
    """
    network = patcher.model
    try:
        text = line(
            network.sizes,
            network.get_dtype_inference(),
            patcher.load_device,
            weights=patcher.model_size(),
            activations=lambda *size: network.memory_required(shape(*size)),
        )
    except RuntimeError as error:  # the device has no room to be measured, or not the kernels
        text = f"no estimate of time and memory ({error})"
    logging.info("ExVideo: %s", text)


def read_weights(checkpoint: Path, extension: Path | None) -> SVDWeights:
    """As the core's `read_svd`, and of `ModelSave`'s files, which hold only the UNet."""
    file = None if checkpoint.is_dir() else open_weights(checkpoint)
    found = None if file is None else identify(file.shapes)
    if file is None or found is None or (found.kind, found.naming) != (detect.UNET, "sgm"):
        return read_svd(checkpoint, extension)
    unet = {name.removeprefix(UNET): file[name] for name in file}
    table = unet.get("middle_block.1.extension.positions.weight")
    weights = SVDWeights(
        unet=unet,
        vae={},
        image_encoder={},
        extension_frames=None if table is None else table.shape[0],
        sources=(checkpoint.name,),
    )
    return weights if extension is None else _extended(weights, extension)


def _extended(weights: SVDWeights, extension: Path) -> SVDWeights:
    base = {name: weight for name, weight in weights.unet.items() if ".extension." not in name}
    new = read_extension(extension, {name: tuple(weight.shape) for name, weight in base.items()})
    return replace(weights, unet=base | new, sources=(*weights.sources, extension.name))


def _reload_model(
    checkpoint: Path, extension: Path | None, dtype: torch.dtype | None, disable_dynamic: bool = False
) -> ModelPatcher:
    weights = read_weights(checkpoint, extension)
    model = make_model(weights, dtype, latents=preview_colours(checkpoint), disable_dynamic=disable_dynamic)
    model.cached_patcher_init = (_reload_model, (checkpoint, extension, dtype))
    return model


def _reload_vae(checkpoint: Path, disable_dynamic: bool = False) -> ModelPatcher:
    return _make_vae(read_weights(checkpoint, None), disable_dynamic=disable_dynamic).patcher


def _make_vae(weights: SVDWeights, *, disable_dynamic: bool = False) -> SVDVAE:
    return SVDVAE(weights.vae, " + ".join(weights.sources), disable_dynamic=disable_dynamic)
