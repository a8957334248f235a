"""SVD's sampling runs in ComfyUI: noise levels, guidance that rises over the frames, and the finish.

Shapes: T frames, C channels, H and W latent height and width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.samplers
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...exvideo_core.errors import ClipError, ExVideoError
from ...exvideo_core.families.svd import methods
from ...exvideo_core.families.svd.defaults import PLAIN, SVDDefaults, extended_defaults
from ...exvideo_core.sampling.guidance import frame_guidance, guide
from ...exvideo_core.sampling.schedules import karras_sigmas
from ..comfy_bridge.sampling import AUTO, SOLVERS, Finish, Plan, Settings, method_named
from .model import SVDModel

# by the names that workflows save
METHODS = {AUTO: methods.METHODS["euler"], "dpm++ 2m": methods.METHODS["dpmpp_2m"]}


def plan(model: ModelPatcher, latents: Tensor, settings: Settings) -> Plan:
    """By default Euler steps on Karras levels: KSampler with `euler` and `karras` does the same."""
    check(model, latents)
    solver = SOLVERS[method_named(settings.method, METHODS, "SVD").order]
    default, (first, last) = _defaults(model), settings.guidance
    guided, scale = with_frame_guidance(model, first or default.min_guidance_scale, last or default.max_guidance_scale)
    return Plan(guided, scale, solver, noise_levels(guided, settings.steps, settings.denoise))


def finish(model: ModelPatcher) -> Finish:
    """Clips of the extension are normalized and get more contrast."""
    default = _defaults(model)
    return Finish(normalize=default.normalize, contrast=default.contrast)


def noise_levels(model: ModelPatcher, steps: int, denoise: float) -> Tensor:
    """Karras levels and a final 0, over the sigma range that the model (or a node before this one) sets."""
    levels = model.get_model_object("model_sampling")
    if denoise == 1:  # KSampler's own, to the last bit; the core's differ by rounding
        return comfy.samplers.calculate_sigmas(levels, "karras", steps)
    return karras_sigmas(steps, denoise, float(levels.sigma_min), float(levels.sigma_max))


def check(model: ModelPatcher, latents: Tensor) -> None:
    """Refuse latents that the network would refuse, before the hours of work."""
    if latents.ndim != 4:
        raise ExVideoError("this latent is not SVD's. Make it with the ExVideo SVD conditioning.")
    frames, table = latents.shape[0], extension_frames(model)
    if table is not None and frames > table and "context_handler" not in model.model_options:
        raise ClipError(
            f"{frames} frames were asked for, but this extension was trained for {table}. Set frames to {table} or "
            f"fewer, or put Context Windows (Manual) with a context length of {table - 1} or less after the loader."
        )


def extension_frames(model: ModelPatcher) -> int | None:
    """Rows of the position table; None without ExVideo's extension."""
    return model.model.sizes.extension_frames if isinstance(model.model, SVDModel) else None


def with_frame_guidance(model: ModelPatcher, first: float, last: float) -> tuple[ModelPatcher, float]:
    """A clone whose guidance rises over the frames, and the scale to sample it with."""
    guided = model.clone()
    if first == last:
        return guided, last  # exactly KSampler's computation
    guided.set_model_sampler_cfg_function(_guidance_function(first, last), disable_cfg1_optimization=True)
    return guided, last


def _guidance_function(first: float, last: float) -> Callable[[dict[str, Any]], Tensor]:
    def remove_noise(run: dict[str, Any]) -> Tensor:
        cond, uncond = run["cond_denoised"], run["uncond_denoised"]
        scale_T111 = frame_guidance(len(cond), first, last).to(cond)
        return run["input"] - guide(cond, uncond, scale_T111)

    return remove_noise


def _defaults(model: ModelPatcher) -> SVDDefaults:
    table = extension_frames(model)
    return PLAIN if table is None else extended_defaults(table)
