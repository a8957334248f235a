"""A sampling run with the reference's defaults, by ComfyUI's own machinery.

Shapes: T frames, C channels, H and W latent height and width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.sample
import comfy.samplers
import latent_preview
import torch
from comfy import model_base
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...exvideo_core.errors import ClipError, ExVideoError
from ...exvideo_core.families.cogvideox.geometry import GEOMETRY
from ...exvideo_core.families.cogvideox.pipeline import check_steps
from ...exvideo_core.families.svd.pipeline import PLAIN, SVDDefaults, extended_defaults
from ...exvideo_core.sampling import (
    frame_guidance,
    guide,
    karras_sigmas,
    linspace_timesteps,
    normalize_frames,
    trailing_timesteps,
)
from ...exvideo_core.sampling.inputs import check_finite
from ..cogvideox.model import CogVideoXModel, check_latents
from ..svd.model import SVDModel
from . import nan_check
from .low_memory import explained_sampling

COGVIDEOX_GUIDANCE = 7.0  # of the ExVideo project's own example


AUTO = "auto"  # the method that each model's reference samples with


@dataclass(frozen=True)
class Plan:
    """What a run does with a model.

    Attributes:
        model: a clone, for this run.
        guidance: scale of classifier-free guidance.
        solver: ComfyUI's name of it.
        levels: sigmas, with a last one of 0.
    """

    model: ModelPatcher
    guidance: float
    solver: str
    levels: Tensor


OnStep = Callable[[int, Tensor], None]  # number of a step that is done, from 0, and the clip as it looks by then
Watch = Callable[[Plan], OnStep | None]
SolverOf = Callable[[Plan], Any]  # a SAMPLER


@explained_sampling
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
    method: str = AUTO,
    watch: Watch | None = None,
    solver_of: SolverOf | None = None,
) -> dict[str, Any]:
    """Denoise as the model's reference does, or by another method.

    Args:
        guidance: scale of the first and the last frame; 0 is the model's own.
        denoise: below 1 starts part of the way down, with all `steps`; KSampler starts at nearly the same level.
        method: a name in `METHODS`.
        watch: told the plan before the first step.
        solver_of: gives the solver of a plan; None is ComfyUI's own.
    """
    nan_check.check_inputs(positive, negative, latent)
    plans = cogvideox_plan if isinstance(model.model, CogVideoXModel) else svd_plan
    plan = plans(model, latent["samples"], steps=steps, guidance=guidance, denoise=denoise, method=method)
    on_step = None if watch is None else watch(plan)
    samples = comfy.sample.sample_custom(
        plan.model,
        comfy.sample.prepare_noise(latent["samples"], seed, latent.get("batch_index")),
        plan.guidance,
        comfy.samplers.sampler_object(plan.solver) if solver_of is None else solver_of(plan),
        plan.levels,
        positive,
        negative,
        latent["samples"],
        noise_mask=latent.get("noise_mask"),
        callback=_reporting(latent_preview.prepare_callback(plan.model, steps), on_step),
        seed=seed,
    )
    return {**latent, "samples": samples}


def _reporting(stock: Callable[..., None], on_step: OnStep | None) -> Callable[..., None]:
    """ComfyUI's callback of a run: ours, then its own progress bar and preview, which end the run on Cancel."""

    def callback(step: int, denoised: Tensor, noisy: Tensor, steps: int) -> None:
        if on_step is not None:
            on_step(step, denoised)
        stock(step, denoised, noisy, steps)

    return callback


# SVD


def svd_plan(
    model: ModelPatcher, latents: Tensor, *, steps: int, guidance: tuple[float, float], denoise: float, method: str
) -> Plan:
    """Euler steps on Karras levels: what KSampler does with `euler` and `karras`."""
    check(model, latents)
    if method != AUTO:
        raise ExVideoError(f"the method {method!r} is for CogVideoX. Set it to {AUTO} for SVD, or use KSampler.")
    default = _svd_defaults(model)
    guided, scale = with_frame_guidance(
        model, guidance[0] or default.min_guidance_scale, guidance[1] or default.max_guidance_scale
    )
    return Plan(guided, scale, "euler", noise_levels(guided, steps, denoise))


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
            f"this model is {type(model.model).__name__}, which ExVideo Sampler does not know. Load one with Load "
            f"ExVideo SVD or Load ExVideo CogVideoX, or use KSampler."
        )
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
        return guided, last  # exactly what KSampler computes
    guided.set_model_sampler_cfg_function(_guidance_function(first, last), disable_cfg1_optimization=True)
    return guided, last


def _guidance_function(first: float, last: float) -> Callable[[dict[str, Any]], Tensor]:
    def remove_noise(run: dict[str, Any]) -> Tensor:
        positive, negative = run["cond_denoised"], run["uncond_denoised"]
        scale_T111 = frame_guidance(len(positive), first, last).to(positive)
        return run["input"] - guide(positive, negative, scale_T111)

    return remove_noise


def _svd_defaults(model: ModelPatcher) -> SVDDefaults:
    table = extension_frames(model)
    return PLAIN if table is None else extended_defaults(table)


# CogVideoX


def cogvideox_plan(
    model: ModelPatcher, latents: Tensor, *, steps: int, guidance: tuple[float, float], denoise: float, method: str
) -> Plan:
    """By default DDIM on the reference's timesteps: what KSampler does with `euler` and `normal`."""
    solver, timesteps = METHODS[method]
    check_cogvideox(model, latents, steps, denoise)
    sigmas = model.get_model_object("model_sampling").sigmas
    levels = sigmas[timesteps(steps, denoise).to(sigmas.device)].cpu()
    return Plan(model.clone(), cogvideox_guidance(*guidance), solver, torch.cat([levels, levels.new_zeros(1)]))


# Saved in people's workflows, so the spelling stays. In sigmas, Euler's method is DDIM.
METHODS: dict[str, tuple[str, Callable[[int, float], Tensor]]] = {
    AUTO: ("euler", linspace_timesteps),
    "ddim": ("euler", linspace_timesteps),
    "ddim trailing": ("euler", trailing_timesteps),
    "dpm++ 2m": ("dpmpp_2m", trailing_timesteps),
}


def check_cogvideox(model: ModelPatcher, latents: Tensor, steps: int, denoise: float) -> None:
    """Refuse before the hours of work what would fail, or what nothing good can come from."""
    check_latents(model.model.sizes, latents)
    GEOMETRY.check_frames(GEOMETRY.frames_of(latents.shape[2]))
    if denoise < 1 and not latents.any():
        raise ClipError(
            f"denoise {denoise} changes a given video, but the latent is empty. Connect init_video to ExVideo "
            f"CogVideoX Latent, or set denoise to 1."
        )
    check_steps(steps, denoise)


def cogvideox_guidance(first: float, last: float) -> float:
    """One scale for all frames, for CogVideoX's latent frames are not its pictures; 0 leaves it to the other."""
    if first and last and first != last:
        raise ExVideoError(
            f"CogVideoX has one guidance for all frames, not {first:g} to {last:g}. Set guidance_min and guidance_max "
            f"to the same value, or one of them to 0; {COGVIDEOX_GUIDANCE:g} is ExVideo's own."
        )
    return last or first or COGVIDEOX_GUIDANCE


def finish(model: ModelPatcher, latent: dict[str, Any], is_normalized: bool | None, contrast: float) -> dict[str, Any]:
    """Even out the frames and raise the contrast; None and 0 choose what the model needs."""
    default = _svd_defaults(model)
    latents = latent["samples"].float()
    if default.normalize if is_normalized is None else is_normalized:
        latents = _normalized(latents)
    latents = latents * (contrast or default.contrast)
    check_finite(latents)
    return {**latent, "samples": latents}


def _normalized(latents: Tensor) -> Tensor:
    if latents.ndim == 4:
        return normalize_frames(latents)
    return torch.stack([normalize_frames(clip_CTHW.transpose(0, 1)).transpose(0, 1) for clip_CTHW in latents])
