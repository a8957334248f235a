"""Step reuse (the core's step_cache) on ComfyUI's MODEL: settings in a clone's options, a cache per run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from comfy import model_management
from comfy.model_patcher import ModelPatcher, create_model_options_clone
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...exvideo_core.errors import ExVideoError
from ...exvideo_core.nn.step_cache import Branch, Reuse, StepCache
from . import low_memory

_NAME = "exvideo_step_cache"  # in `transformer_options`: the settings, and during a run its cache
_NAMES = "exvideo_prompt_names"  # likewise, during a run: names of its prompts by ComfyUI's ids, which change


class ReusesSteps:
    """Marks networks whose forward pass takes the step cache of one branch as `memory`."""


def with_step_reuse(model: ModelPatcher, reuse: Reuse) -> ModelPatcher:
    """A clone whose runs predict steps that change little.

    Raises:
        ExVideoError: the network cannot.
    """
    if not isinstance(model.model.diffusion_model, ReusesSteps):
        raise ExVideoError(
            f"step reuse works with models of ExVideo's own loaders, and this one is {type(model.model).__name__}. Use "
            f"ComfyUI's EasyCache with it."
        )
    clone = model.clone()
    clone.model_options["transformer_options"][_NAME] = reuse
    clone.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, _NAME)  # of an earlier ExVideo Speed
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, _NAME, _run_with_cache)
    return clone


def settings_of(model: ModelPatcher) -> Reuse | None:
    """Settings from ExVideo Speed; None without it."""
    settings: Reuse | None = model.model_options.get("transformer_options", {}).get(_NAME)
    return settings


def without_step_reuse(model: ModelPatcher) -> ModelPatcher:
    """The MODEL, or a clone that computes every step."""
    if settings_of(model) is None:
        return model
    clone = model.clone()
    del clone.model_options["transformer_options"][_NAME]
    clone.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, _NAME)
    return clone


def branch_of(options: Mapping[str, Any]) -> Branch | None:
    """The branch of the step cache for one call of the network; None without step reuse.

    Args:
        options: `transformer_options` of the forward pass.
    """
    cache = running(options)
    if cache is None:
        return None
    cache.begin(step_of(options["sample_sigmas"], options["sigmas"]))
    window = options.get("context_window")
    names = options.get(_NAMES, {})
    # free memory decides whether cond and uncond run in one batch
    prompts = (names.get(prompt, prompt) for prompt in options["uuids"])
    return cache.branch((*prompts, None if window is None else tuple(window.index_list)))


def running(options: Mapping[str, Any]) -> StepCache | None:
    """The step cache of the current run."""
    cache = options.get(_NAME)
    return cache if isinstance(cache, StepCache) else None


def step_of(levels: Tensor, now: Tensor) -> int:
    """Number of the step, from 0, that a noise level belongs to; solvers also evaluate between the levels."""
    return int((levels.to(now.device) >= now.max() * (1 - 1e-5)).sum()) - 1


def _run_with_cache(executor: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Wrap a sampling run, whose fourth argument is the noise levels."""
    guider = executor.class_obj  # type: ignore[attr-defined]
    given, guider.model_options = guider.model_options, create_model_options_clone(guider.model_options)
    options = guider.model_options["transformer_options"]
    free = _no_memory if low_memory.is_saving(options) else model_management.get_free_memory
    cache = options[_NAME] = StepCache(options[_NAME], len(args[3]) - 1, free)
    options[_NAMES] = {
        prompt["uuid"]: f"{kind} {index}"
        for kind, prompts in guider.conds.items()
        for index, prompt in enumerate(prompts)
    }
    try:
        return executor(*args, **kwargs)
    finally:
        guider.model_options = given
        logging.info("ExVideo: %s", cache)


def _no_memory(_device: torch.device) -> float:
    """Free bytes that keep the whole cache in main memory."""
    return 0
