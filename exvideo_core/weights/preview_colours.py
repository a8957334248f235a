"""Preview colours in a model file's metadata, for latents that differ from the published models'."""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..nn.nan_check import is_finite

# Metadata keys, whose values are JSON: [channels][3] and [3]. ComfyUI's latent formats use these names.
FACTORS, BIAS = "latent_rgb_factors", "latent_rgb_factors_bias"
_LONGEST = 10_000  # characters; 16 channels take 500


def read_colours(notes: Mapping[str, str], source: str, channels: int) -> tuple[list[list[float]], list[float]] | None:
    """Factors and bias from a file's metadata; None if it has none.

    Latents times the factors plus the bias are red, green and blue in [-1, 1]. CheckpointError if they are damaged.
    """
    if FACTORS not in notes:
        return None
    try:
        factors = _numbers(notes[FACTORS])
        bias = _numbers(notes.get(BIAS, "[0, 0, 0]"))
        fits = factors.shape == (channels, 3) and bias.shape == (3,) and is_finite(factors) and is_finite(bias)
    except (ValueError, TypeError, RuntimeError):  # torch's, for numbers out of range; and RecursionError
        fits = False
    if not fits:
        raise CheckpointError(
            f"{source} has notes for previews that cannot be read ({FACTORS} is a JSON list of {channels} rows of "
            f"3 numbers, {BIAS} one of 3). Save it again without them."
        )
    return factors.tolist(), bias.tolist()


def _numbers(text: str) -> Tensor:
    if len(text) > _LONGEST:
        raise ValueError("too long for a few colours")
    return torch.tensor(json.loads(text), dtype=torch.float32)
