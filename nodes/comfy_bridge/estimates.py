"""Estimated time and memory of a run on the node before its first step, and the time left after each step."""

from __future__ import annotations

import time

from comfy import model_management
from torch import Tensor

from ...exvideo_core.estimate import probe, seconds, work_of
from ...exvideo_core.estimate.counting import Counts
from ...exvideo_core.estimate.jobs import gigabytes, of_time
from .. import host
from . import low_memory, step_reuse
from .model import HostedModel
from .network import Options
from .sampling import Plan

_INTERVAL = 1.0  # seconds between two updates of the text


class ProgressText:
    """Text about a run on its node.

    Args:
        node_id: of the sampler, in the prompt that runs.
        plan: of the run.
        latents: that the run starts from.
        heading: a line that stays above the others.
    """

    def __init__(self, node_id: str | None, plan: Plan, latents: Tensor, heading: str = "") -> None:
        self._node_id, self._heading = node_id, heading
        self._steps = len(plan.levels) - 1
        self._room = room(plan, latents)
        self._begun = time.monotonic()
        self._first: tuple[float, int] | None = None  # time and number of the first finished step
        self._shown = 0.0  # time of the last update
        text = self._text(duration(plan, latents))
        if text:
            host.show_text(node_id, text)

    def __call__(self, step: int, _denoised: Tensor) -> None:
        """After a step, counted from 0."""
        now, done = time.monotonic(), step + 1
        if self._first is None:  # it includes loading, so it is no measure for the others
            self._first = now, step
            return
        begun, first = self._first  # not 0 in a resumed run
        if done == self._steps:
            self._send(f"{done - first} steps in {of_time(now - self._begun)}", now)
        elif now > self._shown + _INTERVAL:
            left = (now - begun) / (step - first) * (self._steps - done)
            self._send(f"step {done} of {self._steps}, about {of_time(left)} left", now)

    def _send(self, line: str, now: float) -> None:
        self._shown = now
        host.show_text(self._node_id, self._text(line), log=False)

    def _text(self, line: str) -> str:
        return "\n".join(filter(None, (self._heading, line, self._room)))


def duration(plan: Plan, latents: Tensor) -> str:
    """Estimated time of the run on this device; empty if unknown."""
    network, device = plan.model.model, plan.model.load_device
    call = _call(plan, latents)
    if call is None:
        return ""
    steps, branches = len(plan.levels) - 1, 1 if is_unguided(plan) else 2
    try:
        estimate = of_time(seconds(work_of(call) * (steps * branches), probe(device, network.get_dtype_inference())))
    except RuntimeError:  # no memory for the measurement, or no kernels
        return ""
    most = "at most about" if step_reuse.settings_of(plan.model) else "about"
    return f"{steps} steps, {most} {estimate} here"


def is_unguided(plan: Plan) -> bool:
    """Whether the network is called only once per step."""
    return plan.guidance == 1 and not plan.model.model_options.get("disable_cfg1_optimization")


def room(plan: Plan, latents: Tensor) -> str:
    """Peak memory of the run, and what to lower if the device has less; empty if unknown."""
    device, call = plan.model.load_device, _call(plan, latents)
    if call is None:
        return ""
    needed, weights = call.peak, plan.model.model_size()
    text = f"{gigabytes(needed)} beside {gigabytes(weights)} of weights"
    there = model_management.get_total_memory(device) - model_management.extra_reserved_memory()
    if model_management.is_device_cpu(device):
        there -= weights  # on a GPU they may be offloaded to main memory
    if needed <= there:
        return text
    first = "" if low_memory.is_saving(_options(plan)) else "choose the preset low memory, then "
    return f"{text}, and {gigabytes(max(0, there))} are available: {first}lower width and height, then frames"


def _call(plan: Plan, latents: Tensor) -> Counts | None:
    """Counts of one call of the network; None for other models, and with context windows, whose number is unknown."""
    network = plan.model.model
    if "context_handler" in plan.model.model_options or not isinstance(network, HostedModel):
        return None
    return network.count_call(list(latents.shape), _options(plan))


def _options(plan: Plan) -> Options:
    options: Options = plan.model.model_options["transformer_options"]
    return options
