"""A sampling run with the reference's defaults, by ComfyUI's own machinery.

Shapes: T frames, C channels, H and W latent height and width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.sample
import comfy.samplers
import latent_preview
import torch
from comfy import model_base
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...exvideo_core.errors import ClipError, ExVideoError
from ...exvideo_core.pipelines.svd import PLAIN, extended_defaults
from ...exvideo_core.sampling import frame_guidance, guide, karras_sigmas, normalize_frames
from .model import SVDModel


def sample(
    model: ModelPatcher,
    positive: Any,
    negative: Any,
    latent: dict[str, Any],
    *,
    seed: int,
    steps: int,
    guidance: tuple[float, float],
    denoise: float,
) -> dict[str, Any]:
    """Denoise with Euler steps on Karras levels: what KSampler does with `euler` and `karras`.

    Args:
        guidance: scale of the first and the last frame.
        denoise: below 1 starts part of the way down, with all `steps`; KSampler starts at nearly the same level.
    """
    check(model, latent["samples"])
    guided, scale = with_frame_guidance(model, *guidance)
    samples = comfy.sample.sample_custom(
        guided,
        comfy.sample.prepare_noise(latent["samples"], seed, latent.get("batch_index")),
        scale,
        comfy.samplers.sampler_object("euler"),
        noise_levels(guided, steps, denoise),
        positive,
        negative,
        latent["samples"],
        noise_mask=latent.get("noise_mask"),
        callback=latent_preview.prepare_callback(guided, steps),
        seed=seed,
    )
    return {**latent, "samples": samples}


def noise_levels(model: ModelPatcher, steps: int, denoise: float) -> Tensor:
    """Karras levels and a final 0, over the range that the model (or a node before this one) sets."""
    levels = model.get_model_object("model_sampling")
    if denoise == 1:  # KSampler's own, to the last bit; they differ from the core's by its rounding
        return comfy.samplers.calculate_sigmas(levels, "karras", steps)
    return karras_sigmas(steps, denoise, float(levels.sigma_min), float(levels.sigma_max))


def check(model: ModelPatcher, latents: Tensor) -> None:
    """Refuse before the hours of work what the network would refuse."""
    if not isinstance(model.model, SVDModel | model_base.SVD_img2vid):
        raise ExVideoError(
            f"this model is {type(model.model).__name__}, not SVD. Load one with Load ExVideo SVD, or use KSampler."
        )
    if latents.ndim != 4:
        raise ExVideoError("this latent is not SVD's. Make it with the ExVideo SVD conditioning.")
    frames, table = latents.shape[0], extension_frames(model)
    if table is not None and frames > table and "context_handler" not in model.model_options:
        raise ClipError(
            f"{frames} frames were asked for, but this extension was trained for {table}. Set frames to {table} or "
            f"fewer, or put Context Windows (Manual) with a context length of {table} or less after the loader."
        )


def extension_frames(model: ModelPatcher) -> int | None:
    """Rows of the position table; None without ExVideo's extension."""
    return model.model.sizes.extension_frames if isinstance(model.model, SVDModel) else None


def with_frame_guidance(model: ModelPatcher, first: float, last: float) -> tuple[ModelPatcher, float]:
    """A clone whose guidance rises over the frames, and the scale to sample it with."""
    guided = model.clone()
    if first == last:
        return guided, last  # exactly what KSampler computes
    guided.set_model_sampler_cfg_function(_guidance_function(first, last), disable_cfg1_optimization=True)
    return guided, last


def _guidance_function(first: float, last: float) -> Callable[[dict[str, Any]], Tensor]:
    def remove_noise(run: dict[str, Any]) -> Tensor:
        positive, negative = run["cond_denoised"], run["uncond_denoised"]
        scale_T111 = frame_guidance(len(positive), first, last).to(positive)
        return run["input"] - guide(positive, negative, scale_T111)

    return remove_noise


def finish(model: ModelPatcher, latent: dict[str, Any], is_normalized: bool | None, contrast: float) -> dict[str, Any]:
    """Even out the frames and raise the contrast; None and 0 choose what the model needs."""
    table = extension_frames(model)
    default = PLAIN if table is None else extended_defaults(table)
    latents_TCHW = latent["samples"].float()
    if default.normalize if is_normalized is None else is_normalized:
        latents_TCHW = normalize_frames(latents_TCHW)
    if not torch.isfinite(latents_TCHW).all():
        raise ExVideoError(
            "the model returned values that are not numbers. Load it with weight type bf16 or fp32: fp16 may have "
            "overflowed."
        )
    return {**latent, "samples": latents_TCHW * (contrast or default.contrast)}
