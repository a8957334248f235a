"""`exvideo train --dry-run`: the parameters, clips and memory of a run, without training."""

from __future__ import annotations

import os
from pathlib import Path

from .data.listing import list_videos
from .loop import check_batch
from .recipe import Config, TrainingRecipe
from .settings import DataConfig, OptimizerConfig, RunConfig
from .sources import PROCEDURAL

_FP32 = 4
_FROZEN = {"bf16": 2, "fp32": 4}
# bytes of optimizer state per trained parameter; 8 bits have a float32 scale for each 256
_MOMENTS = {"adamw": 8.0, "adamw8bit": 2 * (1 + 4 / 256), "muon": 4.0}


def dry_run(recipe: TrainingRecipe[Config], config: Config) -> str:
    """Report on headers of files and the list of videos; ExVideoError where a run would stop, as far as is known."""
    check_batch(config.run, int(os.environ.get("WORLD_SIZE", "1")))
    network, units = recipe.parts(config)
    sizes = {p: p.numel() for unit in units.values() for p in unit.parameters()}
    frozen, trained = sum(p.numel() for p in network.parameters() if p not in sizes), sum(sizes.values())
    lines = [
        f"target    {config.target}: {trained / 1e6:,.1f} million parameters in {len(sizes)} tensors are "
        f"trained, {frozen / 1e6:,.1f} million are frozen",
        f"clips     {config.model.num_frames} frames of {config.data.width}x{config.data.height}",
        f"data      {_data(config.data)}",
        f"course    {config.run.steps} steps of {config.run.batch_size} clips, {config.optimizer.kind}, "
        f"{config.run.precision}",
        f"output    {config.run.output}",
        "",
        "Kept on each GPU between steps; the activations of one clip come on top:",
        "",
        footprint_table(frozen, trained, config.run, config.optimizer),
    ]
    return "\n".join(lines)


def _data(data: DataConfig) -> str:
    if data.source == PROCEDURAL:
        return "procedural: drawn as needed"
    listed = list_videos(Path(data.source))
    captioned = sum(bool(video.caption) for video in listed)
    return f"{len(listed)} videos in {data.source}, {captioned} of them with a caption"


def footprint(frozen: int, trained: int, gpus: int, run: RunConfig, optimizer: OptimizerConfig) -> dict[str, int]:
    """Bytes kept on each GPU, by kind, for so many frozen and trained parameters. Activations come on top.

    The frozen network is replicated. Of what is trained, each GPU has a shard, and the weights gathered while they are
    used. DeepSpeed keeps the EMA whole on every GPU, and two copies of the weights on one.
    """
    part = -(-trained // gpus)
    is_deepspeed = run.engine == "deepspeed"
    return {
        "frozen": frozen * _FROZEN[run.precision],
        "weights": _FP32 * (trained + part if gpus > 1 or is_deepspeed else trained),
        "gradients": _FP32 * part,
        "moments": round(_MOMENTS[optimizer.kind] * part),
        "average": _FP32 * (trained if is_deepspeed else part) if run.average else 0,
    }


def footprint_table(frozen: int, trained: int, run: RunConfig, optimizer: OptimizerConfig) -> str:
    """Table for 1, 2 and 8 GPUs, in GB, as in the documentation."""
    counts = (1, 2, 8)
    kinds = [footprint(frozen, trained, gpus, run, optimizer) for gpus in counts]
    columns = [sizes | {"total": sum(sizes.values())} for sizes in kinds]
    rows = [("GB on each of", *(f"{gpus} GPU{'s' * (gpus > 1)}" for gpus in counts)), ("---",) * (1 + len(counts))]
    rows += [(kind, *(f"{column[kind] / 1e9:.2f}" for column in columns)) for kind in columns[0]]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
