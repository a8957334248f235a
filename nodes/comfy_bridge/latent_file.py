"""Finished latents as a file that ComfyUI's own Load Latent reads: hours of sampling, before anything is decoded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...exvideo_core.errors import CheckpointError, VideoError
from ...exvideo_core.weights.write import write_weights
from .. import host

_PREFIX = "latents/ExVideo"  # ComfyUI's Save Latent begins with the same folder


def keep(samples: Tensor, prompt: Any, extra_pnginfo: Mapping[str, Any] | None) -> str:
    """Write a .latent file into the output folder; what happened, in words: the run goes on in any case."""
    # without the second, Load Latent would take them for those of an old version, and scale them
    tensors = {"latent_tensor": samples, "latent_format_version_0": torch.tensor([])}
    try:
        output = host.new_output(_PREFIX, 0, 0)
        with output.work_folder() as folder:
            finished = folder / "finished.latent"
            write_weights(finished, tensors, host.graph_tags(prompt, extra_pnginfo))
            [path] = output.take_in([finished])
    except (CheckpointError, VideoError, OSError) as error:
        return f"the latents could not be kept: {error} The clip is made all the same."
    return f"latents kept: {output.subfolder}/{path.name} in the output folder"
