"""Settings of post-tuning CogVideoX."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ...lora.attach import ATTENTION
from ...training.settings import DataConfig, ModelConfig, OptimizerConfig, RunConfig, Section, Training
from .geometry import GEOMETRY


class CogVideoXModel(ModelConfig):
    """The network to extend, and how."""

    num_frames: int = Field(default=129, description="length of the clips, 8 k + 1")
    base_frames: int = Field(default=49, ge=1, description="length of the base's clips")
    transformer: str = Field(default="CogVideoX-5b", description="file, shards or folder of CogVideoX-5b, or demo")
    vae: str = Field(default="CogVideoX-5b", description="likewise")
    text_encoder: str = Field(default="CogVideoX-5b", description="likewise")
    lora: str | None = Field(default=None, description="one to start from; null: a new one")
    rank: int = Field(default=64, ge=1, description="of a new LoRA")
    alpha: float | None = Field(default=None, description="a new LoRA is multiplied by alpha / rank; null: by 1")
    targets: tuple[str, ...] = Field(default=ATTENTION, description="layers to change, by the ends of their names")


class CogVideoXObjective(Section):
    """Noise levels, and the loss at each."""

    noisiness: float = Field(default=1.0, description="1: all timesteps alike; more: the noisy ones more often")
    condition_dropout: float = Field(
        default=0.1, ge=0, le=1, description="share of the clips learned without the prompt, for guidance"
    )


class CogVideoXTraining(Training):
    """Post-tune CogVideoX-5B to longer clips by a LoRA."""

    geometry = GEOMETRY

    target: Literal["cogvideox"] = Field(default="cogvideox", description="cogvideox: text to video")
    run: RunConfig = RunConfig(name="exvideo_cogvideox")
    model: CogVideoXModel = CogVideoXModel()
    data: DataConfig = DataConfig(width=720, height=480, fps=8)
    objective: CogVideoXObjective = CogVideoXObjective()
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-4)
