"""From weights to ComfyUI's MODEL: one way for every family."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import comfy.utils
import torch
from comfy import latent_formats, model_management, model_patcher
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ...exvideo_core.estimate import usual_line
from ...exvideo_core.nn.out_of_memory import explained
from ...exvideo_core.weights.assign import assign_weights, shapes_of, sized_by
from ...exvideo_core.weights.preview_colours import read_colours
from .model import HostedModel


def make_model(
    model_class: type[HostedModel],
    weights: Mapping[str, Tensor],
    source: str,
    dtype: torch.dtype | None = None,
    *,
    latents: latent_formats.LatentFormat | None = None,
    disable_dynamic: bool = False,
) -> ModelPatcher:
    """ComfyUI's MODEL around a network's weights.

    Args:
        model_class: the family's.
        weights: under the network's names, in the file's dtypes.
        source: the file, for messages.
        dtype: of the weights; None lets ComfyUI choose by device and file.
        latents: how latents are scaled and previewed; None is the config's.
        disable_dynamic: no dynamic VRAM; ComfyUI asks for it in some clones.
    """
    device = model_management.get_torch_device()
    supported = model_class.config_class.supported_inference_dtypes
    if dtype is None:
        count = sum(weight.numel() for weight in weights.values())
        stored = comfy.utils.weight_dtype(weights)
        dtype = model_management.unet_dtype(model_params=count, supported_dtypes=supported, weight_dtype=stored)
    manual_cast = model_management.unet_manual_cast(dtype, device, supported)
    sizes = model_class.sizes_class.from_shapes(shapes_of(weights))
    with sized_by(source):
        model = model_class(model_class.config_class(sizes, dtype, manual_cast), device="meta")
    if latents is not None:
        model.latent_format = latents
    patcher_class = model_patcher.ModelPatcher if disable_dynamic else model_patcher.CoreModelPatcher
    patcher = patcher_class(model, load_device=device, offload_device=model_management.unet_offload_device())
    fill(model.diffusion_model, weights, source, is_dynamic=patcher.is_dynamic())
    return patcher


def fill(module: nn.Module, weights: Mapping[str, Tensor], source: str, *, is_dynamic: bool) -> None:
    """Give a module on the meta device its weights, cast to the dtypes it was made with; all must fit exactly.

    With dynamic VRAM they stay as they are in the file: ComfyUI casts each layer when it is used.
    """
    module.requires_grad_(False).eval()
    if not is_dynamic:
        types = _declared_types(module)
        with explained(f"loading {source}", "Choose a smaller weight type, such as fp16, or end other programs."):
            weights = {name: weight.to(types.get(name) or weight.dtype) for name, weight in weights.items()}
    assign_weights(module, weights, source)


def _declared_types(module: nn.Module) -> dict[str, torch.dtype | None]:
    """Dtypes of all weights as `archive_model_dtypes` noted them; layers made for dynamic VRAM have no weights yet."""
    end = "_comfy_model_dtype"
    return {
        f"{path}.{note.removesuffix(end)}": dtype
        for path, layer in module.named_modules()
        for note, dtype in vars(layer).items()
        if note.endswith(end)
    }


def preview_latents(
    latents_class: Callable[..., latent_formats.LatentFormat], notes: Mapping[str, str], source: str
) -> Any:
    """A family's latent format with the preview colours in the file's metadata, else with those of the published VAE.

    Args:
        latents_class: takes the factors and the bias.
        notes: the metadata of the network's file.
        source: the file, for messages.
    """
    default = latents_class()
    colours = read_colours(notes, source, default.latent_channels)
    return default if colours is None else latents_class(*colours)


def log_estimate(patcher: ModelPatcher) -> None:
    """Log time and memory of the most common clip."""
    network: HostedModel = patcher.model
    dtype, weights = network.get_dtype_inference(), patcher.model_size()
    try:
        text = usual_line(network.estimates, network.sizes, dtype, patcher.load_device, weights)
    except RuntimeError as error:  # no memory for the measurement, or no kernels
        text = f"no estimate of time and memory ({error})"
    logging.info("ExVideo: %s", text)
