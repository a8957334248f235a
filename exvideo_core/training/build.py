"""From a configuration to something that can be trained: networks and clips, put together."""

from __future__ import annotations

import torch

from ..families.cogvideox import training as cogvideox
from ..families.svd import training as svd
from ..runtime.distributed import World
from .config import CogVideoXTraining, SVDTraining, Training
from .sources import Progress, cogvideox_source, encoding_format, svd_source
from .target import Target


def build_target(config: Training, world: World, progress: Progress | None = None) -> Target:
    """Read the networks, encode the clips that are not encoded yet, and freeze what is frozen."""
    if isinstance(config, SVDTraining):
        return build_svd_target(config, world, progress)
    return build_cogvideox_target(config, world, progress)


def build_svd_target(config: SVDTraining, world: World, progress: Progress | None = None) -> svd.SVDTarget:
    """Stable Video Diffusion with its extension, and clips."""
    weights = svd.read_weights(config.model)
    unet, vae, image_encoder = svd.build_networks(config, weights)
    for encoder in (vae, image_encoder):
        encoder.requires_grad_(False).to(world.device, encoding_format(world.device))
    source = svd_source(config, weights, (vae, image_encoder), world, progress)
    image_encoder.to("meta")  # its work is done
    if not config.objective.image_noise:
        vae.to("meta")
    return svd.SVDTarget(config, weights, unet, vae, source, world.device)


def build_cogvideox_target(
    config: CogVideoXTraining, world: World, progress: Progress | None = None
) -> cogvideox.CogVideoXTarget:
    """CogVideoX's transformer with a LoRA, and clips."""
    source, no_text = cogvideox_source(config, world, progress)
    if world.device.type == "cuda":
        torch.cuda.empty_cache()  # of the encoders, which are gone
    transformer = cogvideox.build_base(config)
    lora = cogvideox.starting_lora(config, transformer)
    return cogvideox.CogVideoXTarget(config, transformer, lora, source, no_text, world.device)
