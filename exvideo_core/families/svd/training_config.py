"""Settings of post-tuning Stable Video Diffusion."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ...training.settings import ModelConfig, RunConfig, Section, Training
from .geometry import GEOMETRY
from .vae import SCALING_FACTOR


class SVDModel(ModelConfig):
    """The network to extend, and how."""

    num_frames: int = Field(default=128, description="length of the new extension's clips")
    base_frames: int = Field(default=25, ge=1, description="length of the base's clips")
    checkpoint: str = Field(default="svd_xt.safetensors", description="svd_xt.safetensors, a diffusers folder, or demo")
    extension: str | None = Field(
        default=None, description="a published extension, or yours, to start from; null: a new one"
    )
    trainable: Literal["temporal", "new"] = Field(
        default="temporal",
        description="temporal: all 528 tensors of the published file; new: positions and convolutions",
    )
    position_init: Literal["folded", "sinusoid"] = Field(
        default="folded", description="past frame 24 a new table walks back and forth (published), or counts on"
    )


class SVDObjective(Section):
    """Noise levels, and the loss at each."""

    noise_levels: Literal["schedule", "lognormal"] = Field(
        default="schedule", description="schedule: evenly over the sampler's (published; half are above 15)"
    )
    lognormal_mean: float = Field(default=0.7, description="of ln sigma; SVD's own training: 0.7")
    lognormal_std: float = Field(default=1.6, description="SVD's own training: 1.6")
    weighting: Literal["script", "velocity"] = Field(
        default="script", description="script: x0 error times sqrt(1 + sigma^2) / sigma (published); velocity: v error"
    )
    target_scale: float = Field(default=1.01, description="train towards latents this much stronger; published: 1.01")
    latent_scale: float = Field(
        default=SCALING_FACTOR, gt=0, description="of the clips' latents; 0.13025 as the published script, which greys"
    )
    condition_dropout: float = Field(
        default=0.1, ge=0, le=1, description="share of the clips learned without the picture, for guidance"
    )
    image_noise: float = Field(
        default=0.02, description="median of the noise on the conditioning picture; 0: none (published)"
    )
    image_noise_std: float = Field(default=0.5, description="of its logarithm; 0: always the median")


class SVDTraining(Training):
    """Post-tune Stable Video Diffusion to longer clips."""

    geometry = GEOMETRY

    target: Literal["svd"] = Field(default="svd", description="svd: image to video")
    run: RunConfig = RunConfig(name="exvideo_svd")
    model: SVDModel = SVDModel()
    objective: SVDObjective = SVDObjective()
