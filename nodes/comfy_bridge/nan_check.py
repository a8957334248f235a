"""Forward passes whose results are numbers, in whatever sampler of ComfyUI; else an error that names step and layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ...exvideo_core.errors import NumberError
from ...exvideo_core.nn.nan_check import check_given, checked
from . import low_memory, step_reuse


def computed(
    network: Any, options: Mapping[str, Any], compute: Callable[..., Tensor], given: Mapping[str, Tensor]
) -> Tensor:
    """A forward pass, in the pieces that there is memory for and with step reuse, as the run asks.

    Args:
        network: computes in pieces.
        options: `transformer_options` of the forward pass.
        compute: calls the network; takes the memory of step reuse as `memory`.
        given: what goes in, by what people call it.

    Raises:
        NumberError: the result is not all numbers.
    """
    reuse = step_reuse.memory_of(options)
    result = low_memory.within(network, options, lambda: compute(memory=reuse))
    try:
        return checked(result, network, lambda: low_memory.within(network, options, compute), given)
    except NumberError as error:
        raise error.at(_step(options)) from error


def check_inputs(positive: Any, negative: Any, latent: Mapping[str, Any]) -> None:
    """Raise NumberError, with the input's name, if a sampler is given something that is not all numbers."""
    given = {"the latent": latent["samples"]}
    for name, conditioning in (("positive", positive), ("negative", negative)):
        for embedding, told in conditioning:
            given[f"the {name} conditioning"] = embedding
            given |= {f"{key} of the {name} conditioning": x for key, x in told.items() if isinstance(x, Tensor)}
            check_given(given)


def _step(options: Mapping[str, Any]) -> str:
    """Which step it is, where a sampler of ComfyUI says so."""
    levels, now = options.get("sample_sigmas"), options.get("sigmas")
    if levels is None or now is None:
        return "sampling"
    return f"step {step_reuse.step_of(levels, now) + 1} of {len(levels) - 1}"
