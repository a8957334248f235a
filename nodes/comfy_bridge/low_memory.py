"""Low-memory runs: smaller chunks and offloaded weights. The same clip, more slowly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import torch
from comfy import model_management
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ...exvideo_core.nn.chunks import CHUNK_BYTES, chunk_bytes_for
from ...exvideo_core.nn.out_of_memory import Chunked, explained, retry_with_smaller_chunks

SMALL_CHUNK_BYTES = CHUNK_BYTES // 2
_NAME = "exvideo_low_memory"  # in `transformer_options`, of a clone or a run

# Runs that were out of memory, by the tensor of their noise levels, and the chunk size that then fitted.
_lowered: MutableMapping[Tensor, int] = WeakIdKeyDictionary()

explained_sampling = explained(
    "sampling, even with the smallest chunks",
    "Choose ExVideo Sampler's preset low memory; then lower width and height, then frames.",
)


def saving(model: ModelPatcher) -> ModelPatcher:
    """A clone whose runs compute in smaller chunks, with weights and skips offloaded to main memory."""
    clone = model.clone()
    clone.model_options["transformer_options"][_NAME] = True
    clone.remove_wrappers_with_key(WrappersMP.PREPARE_SAMPLING, _NAME)
    clone.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, _NAME, _without_weights)
    return clone


def is_saving(options: Mapping[str, Any]) -> bool:
    """Whether a run with these `transformer_options` is a low-memory run."""
    return bool(options.get(_NAME))


def chunk_bytes(options: Mapping[str, Any]) -> int:
    """Budget for the temporary tensors of one chunk in a run with these `transformer_options`."""
    return SMALL_CHUNK_BYTES if is_saving(options) else card_chunk_bytes(model_management.get_torch_device())


def card_chunk_bytes(device: torch.device) -> int:
    """Budget for the temporary tensors of one chunk on a device, by its memory in all."""
    if device.type not in ("cuda", "xpu"):  # the memory of others is the system's, too
        return CHUNK_BYTES
    return chunk_bytes_for(model_management.get_total_memory(device))


@explained_sampling
def in_chunks(network: Chunked, options: Mapping[str, Any], compute: Callable[[], Tensor]) -> Tensor:
    """Run a forward pass in the chunks of this run. Out of memory, use smaller ones, for the rest of the run, too.

    Args:
        network: computes in chunks.
        options: `transformer_options` of the forward pass.
        compute: calls the network; it may be called several times.
    """
    levels = options.get("sample_sigmas")
    given = network.chunk_bytes = chunk_bytes(options) if levels is None else _lowered.get(levels, chunk_bytes(options))
    try:
        return retry_with_smaller_chunks(network, compute)
    finally:
        if network.chunk_bytes < given and levels is not None:
            _lowered[levels] = network.chunk_bytes
        network.chunk_bytes = chunk_bytes(options)


def _without_weights(executor: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Wrap the loading of models: asked for all memory, ComfyUI loads weights only when they are used."""
    kwargs["force_offload"] = True
    return executor(*args, **kwargs)
