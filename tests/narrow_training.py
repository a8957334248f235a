"""What is trained, over narrow networks and a source that has a single clip."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from narrow_svd import noise
from torch import Tensor

from exvideo_core.families.cogvideox import training as cogvideox
from exvideo_core.families.cogvideox.clips import CogVideoXClip
from exvideo_core.families.cogvideox.training_config import CogVideoXTraining
from exvideo_core.families.svd import training as svd
from exvideo_core.families.svd.checkpoint import SVDWeights
from exvideo_core.families.svd.clips import SVDClip
from exvideo_core.families.svd.config import UNetConfig
from exvideo_core.families.svd.training_config import SVDModel, SVDTraining
from exvideo_core.families.svd.unet import SVDUNet
from exvideo_core.families.svd.vae import VAE
from exvideo_core.registry import training_recipes
from exvideo_core.training.config import parse_config
from exvideo_core.training.recipe import Target
from exvideo_core.training.settings import Training
from exvideo_core.weights.assign import assign_weights, shapes_of

NO_TEXT_LD = noise(5, 8, seed=5)  # stands for the embedding of the empty sentence
_CPU = torch.device("cpu")


@dataclass
class OneClip:
    """A source that has a single clip."""

    clip: Any
    num_held_out: int = 1

    def training(self, _position: int, _generator: torch.Generator) -> Any:
        return self.clip

    def held_out(self, _index: int) -> Any:
        return self.clip


def svd_clip(num_frames: int = 4) -> SVDClip:
    """Noise of 80x80 pixels."""
    return SVDClip(
        latents_TCHW=noise(num_frames, 4, 10, 10, seed=1),
        picture_3HW=noise(3, 80, 80, seed=2).clamp(-1, 1),
        context_1D=noise(1, 8, seed=3),
        fps=8.0,
        motion_bucket_id=31.0,
    )


def cogvideox_clip(num_latent_frames: int = 3) -> CogVideoXClip:
    """Noise of 48x32 pixels."""
    return CogVideoXClip(
        latents_CTHW=noise(16, num_latent_frames, 4, 6, seed=1), context_LD=noise(5, 8, seed=2), fps=8.0
    )


def config_of(target: str, precision: str = "fp32", **sections: Mapping[str, Any]) -> Training:
    """A configuration of these sections, without what only large networks need."""
    run = {"precision": precision, "checkpointing": False, **sections.pop("run", {})}
    return parse_config({"target": target, "run": run, **sections}, training_recipes()[target]().config)


def build_svd_target(checkpoint: Path, clip: SVDClip | None = None, **given: Any) -> svd.SVDTarget:
    """With a new extension, or the given one, as long as the clip; `given` is `config_of`'s."""
    clip = clip or svd_clip()
    model = {"checkpoint": str(checkpoint), "num_frames": len(clip.latents_TCHW), **given.pop("model", {})}
    config = config_of("svd", model=model, **given)
    assert isinstance(config, SVDTraining)
    weights, vae = _svd_parts(config.model)
    with torch.device("meta"):
        unet = SVDUNet(UNetConfig.from_shapes(shapes_of(weights.unet)))
    assign_weights(unet, weights.unet, "narrow")
    return svd.SVDTarget(config, weights, unet, vae, OneClip(clip), _CPU)


@cache
def _svd_parts(model: SVDModel) -> tuple[SVDWeights, VAE]:
    """What targets leave as it is."""
    weights = svd.read_weights(model)
    return weights, svd.build_svd(weights)[1]


def build_cogvideox_target(
    transformer: Path, clip: CogVideoXClip | None = None, **given: Any
) -> cogvideox.CogVideoXTarget:
    """With a new LoRA of rank 2, or the given one; `given` is `config_of`'s."""
    model = {"transformer": str(transformer), "rank": 2, **given.pop("model", {})}
    config = config_of("cogvideox", model=model, **given)
    assert isinstance(config, CogVideoXTraining)
    network = cogvideox.build_base(config)
    lora = cogvideox.starting_lora(config, network)
    source = OneClip(clip or cogvideox_clip())
    return cogvideox.CogVideoXTarget(config, network, lora, source, NO_TEXT_LD, _CPU)


def trained(target: Target[Any, Any]) -> dict[str, Tensor]:
    """What is trained, by the names that exports are given."""
    return {f"{unit}.{name}": p for unit, module in target.units.items() for name, p in module.named_parameters()}
