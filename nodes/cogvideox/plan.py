"""CogVideoX's sampling runs in ComfyUI: timesteps, and one guidance for all frames."""

from __future__ import annotations

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...exvideo_core.errors import ClipError, ExVideoError
from ...exvideo_core.families.cogvideox import methods
from ...exvideo_core.families.cogvideox.geometry import GEOMETRY
from ...exvideo_core.families.cogvideox.methods import check_steps
from ..comfy_bridge.sampling import AUTO, SOLVERS, Finish, Plan, Settings, method_named
from .model import check_latents

GUIDANCE = 7.0  # of the ExVideo project's own example

# by the names that workflows save
METHODS = {
    AUTO: methods.METHODS["ddim"],
    "ddim": methods.METHODS["ddim"],
    "ddim trailing": methods.METHODS["ddim_trailing"],
    "dpm++ 2m": methods.METHODS["dpmpp_2m"],
}


def plan(model: ModelPatcher, latents: Tensor, settings: Settings) -> Plan:
    """By default DDIM on the reference's timesteps: KSampler with `euler` and `normal` does the same."""
    method = method_named(settings.method, METHODS, "CogVideoX")
    check(model, latents, settings.steps, settings.denoise)
    sigmas = model.get_model_object("model_sampling").sigmas
    timesteps = method.schedule(settings.steps, settings.denoise)
    levels = sigmas[timesteps.to(sigmas.device)].cpu()
    levels = torch.cat([levels, levels.new_zeros(1)])
    return Plan(model.clone(), guidance(*settings.guidance), SOLVERS[method.order], levels)


def finish(_model: ModelPatcher) -> Finish:
    """The reference decodes what was sampled."""
    return Finish()


def check(model: ModelPatcher, latents: Tensor, steps: int, denoise: float) -> None:
    """Refuse, before the hours of work, latents and settings that would fail or give nothing good."""
    check_latents(model.model.sizes, latents)
    GEOMETRY.check_frames(GEOMETRY.frames_of(latents.shape[2]))
    if denoise < 1 and not latents.any():
        raise ClipError(
            f"denoise {denoise} changes a given video, but the latent is empty. Connect init_video to ExVideo "
            f"CogVideoX Latent, or set denoise to 1."
        )
    check_steps(steps, denoise)


def guidance(first: float, last: float) -> float:
    """One scale for all frames, because latent frames are not pixel frames; 0 takes the other one, or the default."""
    if first and last and first != last:
        raise ExVideoError(
            f"CogVideoX has one guidance for all frames, not {first:g} to {last:g}. Set guidance_min and guidance_max "
            f"to the same value, or one of them to 0; {GUIDANCE:g} is ExVideo's own."
        )
    return last or first or GUIDANCE
