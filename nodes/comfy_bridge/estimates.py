"""What a run will take, on the node before its first step, and how long it still takes after each.

Shapes: T frames or latent frames, H and W latent height and width.
"""

from __future__ import annotations

import time

from comfy import model_management
from torch import Tensor

from ...exvideo_core.estimate import Work, probe, seconds
from ...exvideo_core.estimate.jobs import gigabytes, of_time
from .. import host
from . import low_memory, step_reuse
from .model import HostedModel
from .sampling import Plan

_SHORTEST = 1.0  # seconds from one text to the next


class ProgressText:
    """Text on the node of a run.

    Args:
        node_id: of the sampler, in the prompt that runs.
        plan: of the run.
        latents: that it starts from.
        heading: a line that stays above the rest.
    """

    def __init__(self, node_id: str | None, plan: Plan, latents: Tensor, heading: str = "") -> None:
        self._node_id, self._heading = node_id, heading
        self._steps = len(plan.levels) - 1
        self._room = room(plan, latents)
        self._begun = time.monotonic()
        self._first: tuple[float, int] | None = None  # when the first step was done, and which that was
        self._shown = 0.0  # when the last text was sent
        text = self._text(duration(plan, latents))
        if text:
            host.show_text(node_id, text)

    def __call__(self, step: int, _denoised: Tensor) -> None:
        """After a step, counted from 0."""
        now, done = time.monotonic(), step + 1
        if self._first is None:  # it has loading in it, so it says little about the others
            self._first = now, step
            return
        begun, first = self._first  # not 0 in a run that goes on
        if done == self._steps:
            self._send(f"{done - first} steps in {of_time(now - self._begun)}", now)
        elif now > self._shown + _SHORTEST:
            left = (now - begun) / (step - first) * (self._steps - done)
            self._send(f"step {done} of {self._steps}, about {of_time(left)} left", now)

    def _send(self, line: str, now: float) -> None:
        self._shown = now
        host.show_text(self._node_id, self._text(line), log=False)

    def _text(self, line: str) -> str:
        return "\n".join(filter(None, (self._heading, line, self._room)))


def duration(plan: Plan, latents: Tensor) -> str:
    """About how long the run takes here; nothing where that is not known."""
    network, device = plan.model.model, plan.model.load_device
    call = _call(plan, latents)
    if call is None:
        return ""
    steps, branches = len(plan.levels) - 1, 1 if is_unguided(plan) else 2
    try:
        estimate = of_time(seconds(call * (steps * branches), probe(device, network.get_dtype_inference())))
    except RuntimeError:  # the device has no room to be measured, or not the kernels
        return ""
    most = "at most about" if step_reuse.settings_of(plan.model) else "about"
    return f"{steps} steps, {most} {estimate} here"


def is_unguided(plan: Plan) -> bool:
    """Whether the network is called once in a step."""
    return plan.guidance == 1 and not plan.model.model_options.get("disable_cfg1_optimization")


def room(plan: Plan, latents: Tensor) -> str:
    """The memory that the run needs at its peak, and what to lower where the device has not so much."""
    network, device = plan.model.model, plan.model.load_device
    if _call(plan, latents) is None:
        return ""
    options = plan.model.model_options["transformer_options"]
    needed, weights = network.activation_bytes(list(latents.shape), options), plan.model.model_size()
    text = f"{gigabytes(needed)} beside {gigabytes(weights)} of weights"
    there = model_management.get_total_memory(device) - model_management.extra_reserved_memory()
    if model_management.is_device_cpu(device):
        there -= weights  # on a graphics card they may wait in main memory
    if needed <= there:
        return text
    first = "" if low_memory.is_saving(options) else "choose the preset low memory, then "
    return f"{text}, and here are {gigabytes(max(0, there))} for it: {first}lower width and height, then frames"


def _call(plan: Plan, latents: Tensor) -> Work | None:
    """One call of the network; None for other networks, and in context windows, of which nobody knows how many."""
    network = plan.model.model
    if "context_handler" in plan.model.model_options or not isinstance(network, HostedModel):
        return None
    return network.call_work(list(latents.shape))
