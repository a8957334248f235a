"""Colours of previews that a model's file brings, for latents which differ from those of the published models."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from ...exvideo_core.errors import CheckpointError

# What a file may say in its metadata, as JSON: [channels][3] and [3]. ComfyUI's latent formats have these names.
_FACTORS = "latent_rgb_factors"
_BIAS = "latent_rgb_factors_bias"


@dataclass(frozen=True)
class Colours:
    """Of latents: what they are multiplied by to red, green and blue in [-1, 1], and what is added."""

    factors: list[list[float]]
    bias: list[float]


def read_colours(path: Path, channels: int) -> Colours | None:
    """What a file says; None where it says nothing.

    Raises:
        CheckpointError: it says something else.
    """
    if not path.is_file() or path.suffix != ".safetensors":
        return None
    with safe_open(path, "pt") as file:
        notes: dict[str, Any] = file.metadata() or {}
    if _FACTORS not in notes:
        return None
    try:
        factors = torch.tensor(json.loads(notes[_FACTORS]), dtype=torch.float32)
        bias = torch.tensor(json.loads(notes.get(_BIAS, "[0, 0, 0]")), dtype=torch.float32)
        fits = factors.shape == (channels, 3) and bias.shape == (3,)
    except (ValueError, TypeError):
        fits = False
    if not fits:
        raise CheckpointError(
            f"{path.name} has notes for previews that cannot be read ({_FACTORS} is a JSON list of {channels} rows of "
            f"3 numbers, {_BIAS} one of 3). Save it again without them."
        )
    return Colours(factors.tolist(), bias.tolist())
