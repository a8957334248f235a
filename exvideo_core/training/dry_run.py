"""`exvideo train --dry-run`: the parameters, clips and memory of a run, without training."""

from __future__ import annotations

import os
from pathlib import Path

from .data.listing import list_videos
from .footprint import footprint_table
from .loop import check_batch
from .recipe import Config, TrainingRecipe
from .settings import DataConfig
from .sources import PROCEDURAL


def dry_run(recipe: TrainingRecipe[Config], config: Config) -> str:
    """Read the headers of the files and the list of videos, and report what there is.

    Raises:
        ExVideoError: a run would stop there, as far as that can be known before.
    """
    check_batch(config.run, int(os.environ.get("WORLD_SIZE", "1")))
    sizes = recipe.count(config)
    trained = sum(sizes.trained.values())
    lines = [
        f"target    {config.target}: {trained / 1e6:,.1f} million parameters in {len(sizes.trained)} tensors are "
        f"trained, {sizes.frozen / 1e6:,.1f} million are frozen",
        f"clips     {config.model.num_frames} frames of {config.data.width}x{config.data.height}",
        f"data      {_data(config.data)}",
        f"course    {config.run.steps} steps of {config.run.batch_size} clips, {config.optimizer.kind}, "
        f"{config.run.precision}",
        f"output    {config.run.output}",
        "",
        "Kept on each GPU between steps; the activations of one clip come on top:",
        "",
        footprint_table(sizes.frozen, trained, config.run, config.optimizer),
    ]
    return "\n".join(lines)


def _data(data: DataConfig) -> str:
    if data.source == PROCEDURAL:
        return "procedural: drawn as needed"
    listed = list_videos(Path(data.source))
    captioned = sum(bool(video.caption) for video in listed)
    return f"{len(listed)} videos in {data.source}, {captioned} of them with a caption"
