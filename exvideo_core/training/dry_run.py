"""What a configuration would train, on what, and what memory it takes: `exvideo train --dry-run`."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import nn

from ..families.cogvideox import training as cog
from ..families.svd import training as svd
from ..lora import fit_lora
from ..weights.assign import shapes_of
from .config import CogVideoXTraining, SVDTraining, Training
from .data.listing import list_videos
from .footprint import footprint_table
from .loop import check_batch


def describe(config: Training) -> str:
    """Read the files' headers and the list of videos, and say what there is.

    Raises:
        ExVideoError: what a run would stop at, as far as that can be known before.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    check_batch(config.run, world)
    network, trained = _svd(config) if isinstance(config, SVDTraining) else _cogvideox(config)
    frozen = sum(p.numel() for p in network.parameters())
    if isinstance(config, SVDTraining):
        frozen -= sum(trained.values())
    lines = [
        f"target    {config.target}: {sum(trained.values()) / 1e6:,.1f} million numbers in {len(trained)} tensors are "
        f"trained, {frozen / 1e6:,.1f} million are frozen",
        f"clips     {config.model.num_frames} frames of {config.data.width}x{config.data.height}",
        f"data      {_data(config)}",
        f"course    {config.run.steps} steps of {config.run.batch_size} clips, {config.optimizer.kind}, "
        f"{config.run.precision}",
        f"output    {config.run.output}",
        "",
        "Kept on each GPU between steps; the activations of one clip come on top:",
        "",
        footprint_table(frozen, sum(trained.values()), config.run, config.optimizer),
    ]
    return "\n".join(lines)


def _svd(config: SVDTraining) -> tuple[nn.Module, Mapping[str, int]]:
    weights = svd.read_weights(config.model)
    unet, *_ = svd.build_networks(config, weights)
    return unet, _sizes(svd.trained_units(unet, config.model.trainable).items())


def _sizes(units: Iterable[tuple[str, nn.Module]]) -> dict[str, int]:
    return {f"{unit}.{name}": p.numel() for unit, module in units for name, p in module.named_parameters()}


def _cogvideox(config: CogVideoXTraining) -> tuple[nn.Module, Mapping[str, int]]:
    transformer = cog.build_base(config)
    lora = cog.starting_lora(config, transformer)
    shapes = shapes_of(dict(transformer.named_parameters()))
    pairs = fit_lora(lora, shapes)
    sizes: dict[str, int] = {}
    for name, pair in pairs.items():
        sizes |= {f"{name}.down": math.prod(pair.down.shape), f"{name}.up": math.prod(pair.up.shape)}
    return transformer, sizes


def _data(config: Training) -> str:
    if config.data.source == "procedural":
        return "procedural: drawn as needed"
    listed = list_videos(Path(config.data.source))
    told = sum(bool(video.caption) for video in listed)
    return f"{len(listed)} videos in {config.data.source}, {told} of them with a caption"
