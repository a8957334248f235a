"""Settings that every training run has, with their limits and what each is for.

A family narrows `Training` to its own model, objective and defaults.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ..errors import ClipError
from ..nn.attention import BACKENDS
from ..video.geometry import Geometry

_FILE_NAME = re.compile(r'[^/\\:*?"<>|.][^/\\:*?"<>|]{0,99}')


class Section(BaseModel):
    """Part of a configuration: no unknown keys, no NaN or Inf; every field has a description for the template."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class RunConfig(Section):
    """Course and results of a run."""

    name: str = Field(default="extension", description="of the exported files")
    output: str = Field(default="output/training", description="folder for everything that the run writes")
    seed: int = Field(default=0, description="of data order, noise and new weights")
    steps: int = Field(default=8000, ge=1, description="optimizer steps; the published extension had some 10,000s")
    batch_size: int = Field(default=8, ge=1, description="clips of a step, on all GPUs together")
    engine: Literal["fsdp", "deepspeed"] = Field(
        default="fsdp", description="shards gradients and optimizer over several GPUs"
    )
    precision: Literal["bf16", "fp32"] = Field(default="bf16", description="of frozen weights; trained ones are fp32")
    checkpointing: bool = Field(default=True, description="recompute activations in the backward pass")
    attention: str = Field(default="sdpa", description=f"kernel: {', '.join(BACKENDS)}")
    average: float = Field(default=0.999, ge=0, lt=1, description="decay of the exported EMA; 0: no EMA")
    save_every: int = Field(default=500, ge=1, description="steps between checkpoints; each is also exported")
    keep_last: int = Field(default=3, ge=1, description="checkpoints and exports to keep")
    held_out_every: int = Field(default=500, ge=0, description="steps between held-out losses; 0: never")
    validate_every: int = Field(default=0, ge=0, description="steps between validation videos; 0: never")
    export_format: Literal["fp16", "bf16", "fp32"] = Field(default="fp16", description="of the exported files")
    tensorboard: bool = Field(default=False, description="also log to TensorBoard; log.csv is always written")

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not (_FILE_NAME.fullmatch(name) and name.isprintable()):
            raise ValueError(f"must be a plain file name without folders, not {name!r}")
        return name

    @field_validator("attention")
    @classmethod
    def _check_attention(cls, attention: str) -> str:
        if attention not in BACKENDS:
            raise ValueError(f"{attention!r} is unknown; choose {' or '.join(BACKENDS)}")
        return attention


class OptimizerConfig(Section):
    """How weights are updated."""

    kind: Literal["adamw", "adamw8bit", "muon"] = Field(
        default="adamw",
        description="adamw8bit has a quarter of the memory (needs torchao); muon (not with deepspeed) learns fast "
        "from little data",
    )
    learning_rate: float = Field(default=1e-5, ge=0, description="full rate, of AdamW")
    muon_rate: float = Field(default=4e-3, ge=0, description="full rate of matrices with muon; the rest goes to AdamW")
    weight_decay: float = Field(default=0.01, description="of AdamW")
    beta1: float = Field(default=0.9, description="of AdamW")
    beta2: float = Field(default=0.999, description="of AdamW")
    warmup_steps: int = Field(default=100, ge=0, description="steps in which the rate rises from 0")
    hold: float = Field(default=1.0, ge=0, le=1, description="share of the steps before linear decay to 0; 1: no decay")
    clip_norm: float = Field(default=1.0, ge=0, description="gradient clipping, by global norm; 0: none")


class DataConfig(Section):
    """Which clips, and how they are cut."""

    source: str = Field(
        default="videos", description="folder of videos, metadata.json, .jsonl or .csv; or procedural: drawn clips"
    )
    width: int = Field(default=512, description="pixels; frames are resized to cover, and cropped")
    height: int = Field(default=512, description="pixels")
    fps: float | None = Field(default=None, gt=0, description="take frames at this rate; null: every stride-th")
    stride: int = Field(default=1, ge=1, description="1: every frame")
    clips_per_video: int = Field(default=1, ge=1, description="clips, starting anywhere in the video")
    windows: tuple[int, ...] = Field(
        default=(), description="frames of a step, in turn, from anywhere in the clip; []: all"
    )
    held_out: int = Field(default=4, ge=0, description="clips that are never trained on")
    max_bad_share: float = Field(default=0.5, ge=0, le=1, description="stop if more of the videos cannot be used")
    cache: str | None = Field(default=None, description="folder for encoded clips; null: in the output folder")
    pictures: int = Field(default=96, ge=1, description="of source procedural: how many")
    photographs: bool = Field(default=False, description="of source procedural: photographs too (needs scikit-image)")


class ModelConfig(Section):
    """The network to extend; a family adds its files."""

    num_frames: int
    base_frames: int


class Training(Section):
    """The configuration of a run."""

    geometry: ClassVar[Geometry]  # of the family

    target: str  # the family's name
    run: RunConfig = RunConfig()
    model: ModelConfig
    data: DataConfig = DataConfig()
    objective: Section
    optimizer: OptimizerConfig = OptimizerConfig()

    @model_validator(mode="after")
    def _check_together(self) -> Training:
        if problems := list(self._problems()):
            raise ValueError(*problems)
        return self

    def _problems(self) -> Iterator[str]:
        run, data, kind = self.run, self.data, self.optimizer.kind
        if run.engine == "deepspeed" and kind != "adamw":
            yield f"optimizer.kind {kind} does not work with engine deepspeed; choose adamw, or engine fsdp"
        if data.fps is not None and data.stride != 1:
            yield "data.fps excludes data.stride: one of them says which frames are taken"
        if (run.held_out_every or run.validate_every) and not data.held_out:
            yield (
                "data.held_out is 0, so there is nothing for run.held_out_every and run.validate_every; set them to 0 "
                "too"
            )
        frames, geometry = self.model.num_frames, self.geometry
        try:
            geometry.check_size(data.width, data.height)
        except ClipError as error:
            yield f"data.width and data.height: {str(error).rstrip('.')}"
        try:
            geometry.check_frames(frames)
        except ClipError as error:
            yield f"model.num_frames: {str(error).rstrip('.')}"
        shortest, longest = geometry.latent_frames(2), geometry.latent_frames(frames)
        if outside := [window for window in data.windows if not shortest <= window <= longest]:
            unit = "frames" if geometry.temporal_factor == 1 else "latent frames"
            yield f"data.windows: {outside[0]} {unit} are not possible, {shortest} to {longest} are"
