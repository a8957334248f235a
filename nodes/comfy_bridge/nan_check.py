"""Check forward passes for NaN and Inf in any sampler of ComfyUI; the error names step and layer."""

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
    """Run a forward pass in chunks that fit in memory, with step reuse if the run has it.

    Args:
        network: computes in chunks.
        options: `transformer_options` of the forward pass.
        compute: calls the network; takes the step cache of one branch as `memory`.
        given: the inputs, by their names for people.

    Raises:
        NumberError: the result has NaN or Inf.
    """
    reuse = step_reuse.branch_of(options)
    result = low_memory.in_chunks(network, options, lambda: compute(memory=reuse))
    try:
        return checked(result, network, lambda: low_memory.in_chunks(network, options, compute), given)
    except NumberError as error:
        raise error.at(_step(options)) from error


def check_inputs(positive: Any, negative: Any, latent: Mapping[str, Any]) -> None:
    """Raise NumberError, with the input's name, if an input of a sampler has NaN or Inf."""
    given = {"the latent": latent["samples"]}
    for name, conditioning in (("positive", positive), ("negative", negative)):
        for embedding, settings in conditioning:
            given[f"the {name} conditioning"] = embedding
            given |= {f"{key} of the {name} conditioning": x for key, x in settings.items() if isinstance(x, Tensor)}
            check_given(given)


def _step(options: Mapping[str, Any]) -> str:
    """The step in words, if the sampler tells its noise levels."""
    levels, now = options.get("sample_sigmas"), options.get("sigmas")
    if levels is None or now is None:
        return "sampling"
    return f"step {step_reuse.step_of(levels, now) + 1} of {len(levels) - 1}"
