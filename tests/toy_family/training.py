"""Training the toy: its second layer, on drawn clips, by flow matching."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from exvideo_core.runtime.distributed import World
from exvideo_core.training.freezing import freeze
from exvideo_core.training.randomness import generator_of
from exvideo_core.training.recipe import OnPrepare, Sizes, TrainingRecipe
from exvideo_core.training.settings import DataConfig, ModelConfig, RunConfig, Section, Training
from exvideo_core.video import save_video
from exvideo_core.video.geometry import Geometry
from exvideo_core.weights.formats import FORMATS

from .network import GEOMETRY, build_toy, read_toy, save_toy
from .pipeline import load_toy

_HELD_OUT = 10**6  # clips from this number on are never trained on


class ToyModel(ModelConfig):
    """The network, and the length of its clips."""

    num_frames: int = Field(default=6, description="length of the clips")
    base_frames: int = Field(default=4, description="length of the base's clips")
    weights: str = Field(default="toy.safetensors", description="the toy's file")


class ToyObjective(Section):
    """The loss."""

    level: float = Field(default=0.5, ge=0, le=1, description="noise level of the held-out loss")


class ToyTraining(Training):
    """Train the toy."""

    geometry: ClassVar[Geometry] = GEOMETRY

    target: Literal["toy"] = Field(default="toy", description="toy: noise to video")
    run: RunConfig = RunConfig(name="toy")
    model: ToyModel = ToyModel()
    data: DataConfig = DataConfig(width=16, height=16, source="procedural")
    objective: ToyObjective = ToyObjective()


def drawn_clip(config: ToyTraining, number: int) -> Tensor:
    """A brightness that rises over the frames, from a random one: [T, 3, H, W] in [-1, 1]."""
    first = torch.rand(3, generator=generator_of(config.run.seed, number)) - 1
    brightness_TC = first + torch.linspace(0, 1, config.model.num_frames)[:, None]
    return brightness_TC[:, :, None, None].expand(-1, -1, config.data.height, config.data.width)


class ToyTarget:
    """See `exvideo_core.training.target.Target`."""

    num_held_out = 1

    def __init__(self, config: ToyTraining, device: torch.device) -> None:
        self.config, self.device, self.base_frames = config, device, config.model.base_frames
        self.network = build_toy(read_toy(Path(config.model.weights)), config.model.weights)
        self.units: dict[str, nn.Module] = {"second": self.network.second}
        freeze(self.network, self.units.values(), FORMATS[config.run.precision], device)
        self.num_frozen = sum(p.numel() for p in self.network.first.parameters())

    def _errors(self, number: int, level: Tensor, noise: Tensor) -> Tensor:
        clean_TCHW = drawn_clip(self.config, number)
        x_TCHW = ((1 - level) * clean_TCHW + level * noise).to(self.device)
        velocity = self.network(x_TCHW.to(self.network.first.weight.dtype), level.to(self.device)[None])
        return (velocity.float() - (noise - clean_TCHW).to(self.device)).square()

    def loss(self, position: int, step: int) -> Tensor:
        generator = generator_of(self.config.run.seed, position)
        level = torch.rand((), generator=generator)
        noise = torch.randn(drawn_clip(self.config, position).shape, generator=generator)
        return self._errors(position, level, noise).mean()

    @torch.no_grad()
    def held_out_errors(self, item: int) -> Tensor:
        noise = torch.randn(drawn_clip(self.config, _HELD_OUT).shape, generator=generator_of(0, item))
        level = torch.tensor(self.config.objective.level)
        return self._errors(_HELD_OUT + item, level, noise).mean(dim=(1, 2, 3)).cpu()

    def export(self, weights: Mapping[str, Tensor], path: Path) -> None:
        frozen = {name: weight.float() for name, weight in self.network.state_dict().items()}
        save_toy(path, frozen | {name: weight.float().cpu() for name, weight in weights.items()})

    def sample(self, exported: Path, video: Path) -> None:
        save_video(load_toy(exported)(num_frames=self.config.model.num_frames), video, fps=8)


def build_target(config: ToyTraining, world: World, _on_prepare: OnPrepare | None = None) -> ToyTarget:
    return ToyTarget(config, world.device)


def count(config: ToyTraining) -> Sizes:
    network = build_toy(read_toy(Path(config.model.weights)), config.model.weights)
    trained = {f"second.{name}": p.numel() for name, p in network.second.named_parameters()}
    return Sizes(trained=trained, frozen=sum(p.numel() for p in network.first.parameters()))


RECIPE = TrainingRecipe(config=ToyTraining, build=build_target, count=count)
