"""Save finished latents, before they are decoded, as a file that ComfyUI's Load Latent reads."""

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
    """Write a .latent file into the output folder; return a sentence about it. A failure does not stop the run."""
    # without the second tensor, Load Latent would treat the first as an old format and rescale it
    tensors = {"latent_tensor": samples, "latent_format_version_0": torch.tensor([])}
    try:
        output = host.new_output(_PREFIX, 0, 0)
        with output.work_folder() as folder:
            finished = folder / "finished.latent"
            write_weights(finished, tensors, host.graph_tags(prompt, extra_pnginfo))
            [path] = output.take_in([finished])
    except (CheckpointError, VideoError, OSError) as error:
        return f"the latents could not be saved: {error} The clip is not affected."
    return f"latents saved: {output.subfolder}/{path.name} in the output folder"
