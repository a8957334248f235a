"""The toy's network: two layers on pixels; its file, frame and size rules, sampling methods and LoRA names.

Shapes: T frames, C = 3 channels, H and W pixels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from exvideo_core.lora.keys import LoRAKeys
from exvideo_core.nn.chunks import CHUNK_BYTES
from exvideo_core.sampling.levels import Levels
from exvideo_core.sampling.methods import Method
from exvideo_core.video.geometry import Geometry
from exvideo_core.weights.assign import assign_weights, shapes_of, sized_by
from exvideo_core.weights.detect import identify, match, require
from exvideo_core.weights.kind import FileKind, Kind, Shapes
from exvideo_core.weights.safetensors_files import WeightFile, open_weights
from exvideo_core.weights.write import write_weights

PREFIX = "toy."  # of the names in a file

GEOMETRY = Geometry(title="Toy", spatial_factor=1, size_multiple=2, min_size=8, min_frames=2)


# the network


@dataclass(frozen=True, kw_only=True)
class ToyConfig:
    """Sizes of the network."""

    width: int = 8

    @classmethod
    def from_shapes(cls, shapes: Shapes) -> ToyConfig:
        return cls(width=shapes["first.weight"][0])


class ToyNetwork(nn.Module):
    """Predicts the velocity of flow matching, noise - clean (arXiv:2210.02747), for each pixel on its own."""

    def __init__(self, config: ToyConfig, ops: Any = nn, _attention: object = None) -> None:
        super().__init__()
        self.config, self.chunk_bytes = config, CHUNK_BYTES
        self.first, self.second = ops.Linear(4, config.width), ops.Linear(config.width, 3)

    def forward(self, x_TCHW: Tensor, level: Tensor, memory: object = None) -> Tensor:
        """Velocity at the noise level, 1 (noise) to 0; the toy has no step cache, so `memory` is not used."""
        level_T1HW = level.to(x_TCHW).reshape(-1, 1, 1, 1).expand_as(x_TCHW[:, :1])
        x_THWC = torch.cat([x_TCHW, level_T1HW], dim=1).movedim(1, -1)
        return self.second(F.silu(self.first(x_THWC))).movedim(-1, 1)


# its file


NETWORK = Kind("Toy", "choose it as the toy's weights")
LORA = Kind("Toy LoRA", "apply it to the toy", is_lora=True)


def _network(shapes: Shapes) -> FileKind | None:
    return FileKind(NETWORK, "a toy network") if f"{PREFIX}first.weight" in shapes else None


def _lora(shapes: Shapes) -> FileKind | None:
    return FileKind(LORA, "a toy LoRA") if match(shapes, r"toy\.(first|second)\.lora_") else None


RULES = (_lora, _network)


def read_toy(path: Path | WeightFile) -> dict[str, Tensor]:
    """Weights by the network's names.

    Raises:
        CheckpointError: the file is something else.
    """
    file = open_weights(path)
    require(file.name, identify(file.shapes), NETWORK, "a toy network")
    return {name.removeprefix(PREFIX): file[name] for name in file}


def build_toy(weights: Mapping[str, Tensor], source: str) -> ToyNetwork:
    with sized_by(source), torch.device("meta"):
        network = ToyNetwork(ToyConfig.from_shapes(shapes_of(weights)))
    assign_weights(network, weights, source)
    return network.eval()


def save_toy(path: Path, weights: Mapping[str, Tensor]) -> None:
    write_weights(path, {f"{PREFIX}{name}": weight for name, weight in weights.items()})


def new_weights(seed: int = 0) -> dict[str, Tensor]:
    """Random weights, of a network that was never trained."""
    generator = torch.Generator().manual_seed(seed)
    state = ToyNetwork(ToyConfig()).state_dict()
    return {name: torch.randn(weight.shape, generator=generator) / 2 for name, weight in state.items()}


# sampling


def flow_levels(steps: int, denoise: float) -> Tensor:
    """Noise levels [steps + 1], evenly from `denoise` to 0."""
    return torch.linspace(denoise, 0, steps + 1)


def levels_of(values: Tensor) -> Levels:
    """Levels of flow matching: x = (1 - s) * clean + s * noise."""
    noise = values.double()
    return Levels(1 - noise, noise, values)


METHODS = {"flow": Method(schedule=flow_levels), "flow_2m": Method(schedule=flow_levels, order=2)}


# LoRA


def _layer_name(spelling: str) -> str | None:
    found = re.fullmatch(r"(?:toy\.|diffusion_model\.)?(first|second)", spelling)
    return found[1] if found else None


LORA_KEYS = LoRAKeys(
    title="the toy",
    layer_name=_layer_name,
    export_name=lambda name: f"{PREFIX}{name.removesuffix('.weight')}",
    kind=LORA,
    hint=lambda _model: "choose a LoRA of the toy",
)
