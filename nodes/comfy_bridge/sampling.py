"""A sampling run with the reference's defaults, by ComfyUI's own machinery.

Shapes: T frames, C channels, H and W latent height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import comfy.sample
import comfy.samplers
import latent_preview
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...exvideo_core.errors import ExVideoError
from ...exvideo_core.sampling import postprocess
from ...exvideo_core.sampling.methods import Method
from . import nan_check
from .low_memory import explained_sampling

AUTO = "auto"  # the method that the model's reference samples with
SOLVERS = {1: "euler", 2: "dpmpp_2m"}  # ComfyUI's, by the order of a method; in sigmas, Euler's method is DDIM


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Inputs of ExVideo Sampler that a family plans a run by.

    Attributes:
        guidance: scale of the first and the last frame; 0 is the model's own.
        denoise: below 1 starts part of the way down, with all `steps`; KSampler starts at nearly the same level.
        method: `AUTO`, or one that the family has.
    """

    steps: int
    guidance: tuple[float, float]
    denoise: float
    method: str = AUTO


@dataclass(frozen=True)
class Plan:
    """A sampling run, planned.

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


@dataclass(frozen=True, kw_only=True)
class Finish:
    """Defaults for finishing the sampled latents.

    Attributes:
        normalize: whether to give all frames the mean and spread of the clip.
        contrast: factor on the latents.
    """

    normalize: bool = False
    contrast: float = 1.0


Planner = Callable[[ModelPatcher, Tensor, Settings], Plan]  # of a MODEL and the latents that it starts from
OnStep = Callable[[int, Tensor], None]  # number of the finished step, from 0, and the clip as it looks by then
Watch = Callable[[Plan], OnStep | None]
SolverOf = Callable[[Plan], Any]  # a SAMPLER


@explained_sampling
def sample(
    planner: Planner,
    model: ModelPatcher,
    positive: Any,
    negative: Any,
    latent: dict[str, Any],
    settings: Settings,
    *,
    seed: int,
    watch: Watch | None = None,
    solver_of: SolverOf | None = None,
) -> dict[str, Any]:
    """Denoise latents.

    Args:
        planner: the family's.
        watch: called with the plan before the first step; returns what to call after each.
        solver_of: gives the solver of a plan; None is ComfyUI's own.
    """
    nan_check.check_inputs(positive, negative, latent)
    plan = planner(model, latent["samples"], settings)
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
        callback=_reporting(latent_preview.prepare_callback(plan.model, settings.steps), on_step),
        seed=seed,
    )
    return {**latent, "samples": samples}


def _reporting(stock: Callable[..., None], on_step: OnStep | None) -> Callable[..., None]:
    """A callback for ComfyUI: ours, then its own progress bar and preview, which raises on Cancel."""

    def callback(step: int, denoised: Tensor, noisy: Tensor, steps: int) -> None:
        if on_step is not None:
            on_step(step, denoised)
        stock(step, denoised, noisy, steps)

    return callback


def method_named(name: str, methods: Mapping[str, Method], title: str) -> Method:
    """A family's sampling method.

    Args:
        methods: by the names that workflows save; `AUTO` is one of them.
        title: of the family, for the error.

    Raises:
        ExVideoError: the family has no such method.
    """
    if name not in methods:
        raise ExVideoError(f"{title} has no method {name!r}. Set method to {' or '.join(methods)}, or use KSampler.")
    return methods[name]


def finish(default: Finish, latent: dict[str, Any], normalize: bool | None, contrast: float) -> dict[str, Any]:
    """Finish sampled latents; None and 0 choose the default."""
    chosen = {
        "normalize": default.normalize if normalize is None else normalize,
        "contrast": contrast or default.contrast,
    }
    return {**latent, "samples": postprocess.finish(latent["samples"].float(), **chosen)}
