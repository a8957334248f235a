"""Training the toy: its second layer, on drawn clips, by flow matching."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from exvideo_core.runtime.distributed import World
from exvideo_core.training.randomness import generator_of
from exvideo_core.training.recipe import Target, TrainingRecipe
from exvideo_core.training.settings import DataConfig, ModelConfig, RunConfig, Section, Training
from exvideo_core.training.sources import OnPrepare
from exvideo_core.video import save_video
from exvideo_core.video.geometry import Geometry

from .network import GEOMETRY, ToyNetwork, build_toy, read_toy, save_toy
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


class Brightenings:
    """Clips whose brightness rises over the frames, from a random one: [T, 3, H, W] in [-1, 1]."""

    num_held_out = 1

    def __init__(self, config: ToyTraining) -> None:
        self.config = config

    def training(self, position: int, _generator: torch.Generator) -> Tensor:
        first = torch.rand(3, generator=generator_of(self.config.run.seed, position)) - 1
        brightness_TC = first + torch.linspace(0, 1, self.config.model.num_frames)[:, None]
        return brightness_TC[:, :, None, None].expand(-1, -1, self.config.data.height, self.config.data.width)

    def held_out(self, index: int) -> Tensor:
        return self.training(_HELD_OUT + index, torch.Generator())


class ToyTarget(Target[ToyTraining, Tensor]):
    """See `exvideo_core.training.recipe.Target`."""

    held_out_levels = (0.5,)

    def __init__(self, config: ToyTraining, device: torch.device) -> None:
        self.network, units = parts(config)
        super().__init__(config, self.network, units, (), Brightenings(config), device)

    def _errors(self, clean_TCHW: Tensor, level: Tensor, noise: Tensor) -> Tensor:
        x_TCHW = ((1 - level) * clean_TCHW + level * noise).to(self.device)
        velocity = self.network(x_TCHW.to(self.network.first.weight.dtype), level.to(self.device)[None])
        return (velocity.float() - (noise - clean_TCHW).to(self.device)).square()

    def loss(self, position: int, step: int) -> Tensor:
        generator = generator_of(self.config.run.seed, position)
        clip = self.source.training(position, generator)
        level = torch.rand((), generator=generator)
        return self._errors(clip, level, torch.randn(clip.shape, generator=generator)).mean()

    @torch.no_grad()
    def held_out_errors(self, item: int) -> Tensor:
        clip = self.source.held_out(item)
        noise = torch.randn(clip.shape, generator=generator_of(0, item))
        return self._errors(clip, torch.tensor(self.config.objective.level), noise).mean(dim=(1, 2, 3)).cpu()

    def export(self, weights: Mapping[str, Tensor], path: Path) -> None:
        frozen = {name: weight.float() for name, weight in self.network.state_dict().items()}
        save_toy(path, frozen | {name: weight.float().cpu() for name, weight in weights.items()})

    def sample(self, exported: Path, video: Path) -> None:
        save_video(load_toy(exported)(num_frames=self.config.model.num_frames), video, fps=8)


def build_target(config: ToyTraining, world: World, _on_prepare: OnPrepare | None = None) -> ToyTarget:
    return ToyTarget(config, world.device)


def parts(config: ToyTraining) -> tuple[ToyNetwork, dict[str, nn.Module]]:
    network = build_toy(read_toy(Path(config.model.weights)), config.model.weights)
    return network, {"second": network.second}


RECIPE = TrainingRecipe(config=ToyTraining, build=build_target, parts=parts)
