"""A sampling run of a network: both branches of guidance, step reuse, and a state to resume from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..nn.step_cache import Reuse, StepCache
from ..runtime.guidance_branches import Branches, Predict, branches
from ..runtime.memory import free_bytes
from ..runtime.resume import Resume, begin
from ..runtime.weight_streaming import WeightStream
from .denoisers import Denoiser, Velocity
from .guidance import guide
from .inputs import SeededNoise
from .levels import Levels
from .methods import Method
from .samplers import Callback


def sample(  # noqa: PLR0913  each is a part of the run
    network: nn.Module,
    method: Method,
    start: Tensor,
    levels: Levels,
    denoiser_of: Callable[[Branches, StepCache | None], Denoiser],
    *,
    devices: Sequence[torch.device],
    stream: WeightStream | None = None,
    reuse: Reuse | None = None,
    resume: Resume = None,
    callback: Callback | None = None,
    draw: SeededNoise,
    settings: Mapping[str, object],
) -> Tensor:
    """Take latents from noise to clean.

    Args:
        network: the denoising network.
        start: latents at the first level.
        denoiser_of: makes the denoiser from the network on its devices and the run's step cache.
        devices: one, or one for each branch of guidance.
        stream: where the network's weights come from, block by block; None if all are on the device.
        reuse: when a step may be predicted from those before; None computes all.
        draw: fresh noise of start's shape.
        settings: everything else that the result depends on, to tell runs apart.
    """
    cache = StepCache(reuse, levels.steps, free_bytes) if reuse else None
    depends_on = {"method": method, "reuse": reuse, "devices": devices, **settings}
    recording = begin(resume, network, start, levels.values, {"reuse": cache, "noise": draw}, depends_on)
    with branches(network, devices, stream) as networks:
        return method.solve(denoiser_of(networks, cache), start, levels, callback, recording, draw=draw)


def guided_velocity(
    networks: Branches,
    predict: Predict,
    cond: Sequence[Any],
    uncond: Sequence[Any],
    scale_at: Callable[[Tensor], Tensor | float | None],
    cache: StepCache | None,
) -> Velocity:
    """The velocity with classifier-free guidance.

    Args:
        networks: the network on its devices.
        predict: (network, branch of the cache, x, timestep, *inputs) -> v.
        cond, uncond: inputs of the two branches, each on its device.
        scale_at: guidance scale at a timestep; None computes the cond branch alone.
    """

    def velocity(x: Tensor, timestep: Tensor) -> Tensor:
        memories = cache.branches(2) if cache else (None, None)
        given = [(memory, x, timestep, *each) for memory, each in zip(memories, (cond, uncond), strict=True)]
        scale = scale_at(timestep)
        if scale is None:
            return networks.one(predict, given[0])
        return guide(*networks.both(predict, *given), scale)

    return velocity
