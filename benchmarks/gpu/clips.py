"""Whole clips in a few steps, and calls beside the references on the same weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from benchmarks import harness, jobs
from benchmarks.engine import Config
from benchmarks.gpu.bench import Bench, is_installed

_STEPS = 3
_NARROW_SIZES = {"svd": (9, 128, 128), "cogvideox": (9, 32, 32)}  # frames, height, width


def svd(bench: Bench) -> None:
    """SVD, 128 frames of 512x512: conditioning, 3 guided steps, decoding."""
    _clip(bench, "svd_512")


def cogvideox(bench: Bench) -> None:
    """CogVideoX, 129 frames of 720x480: 3 guided steps, decoding."""
    _clip(bench, "cog_129f")


def _clip(bench: Bench, name: str) -> None:
    """`step_seconds` is a step of both branches of guidance, `rest_seconds` what is there once in a clip."""
    bench.drop()
    job = replace(jobs.JOBS[name], steps=_STEPS)
    if bench.is_narrow:
        frames, height, width = _NARROW_SIZES[job.model]
        job = replace(job, narrow=16, frames=frames, height=height, width=width)
    bench.record.put(name, **jobs.measure(job, "exvideo", bench.device.type))


# beside the references


def svd_beside_references(bench: Bench) -> None:
    """A call of SVD's UNet with the extension, and of its VAE."""
    if not bench.is_narrow:  # the references have one width
        _beside(bench, "svd_unet", {"frames": 128, "h": 64, "w": 64, "ext": 128}, bench.half, ("diffsynth",))
    window = bench.size({"frames": 8, "h": 64, "w": 64}, {"frames": 2, "h": 4, "w": 4})
    _beside(bench, "svd_vae", window, bench.half, ("diffsynth", "diffusers"))


def cogvideox_beside_references(bench: Bench) -> None:
    """A call of four layers of CogVideoX's transformer, and of its VAE."""
    tokens = bench.size({"frames": 33, "h": 60, "w": 90, "layers": 4}, {"frames": 2, "h": 4, "w": 4, "layers": 1})
    _beside(bench, "cog_dit", tokens, bench.brain, ("diffsynth", "diffusers"))
    latents = bench.size({"frames": 5, "h": 60, "w": 90}, {"frames": 3, "h": 2, "w": 2})
    _beside(bench, "cog_vae", latents, bench.brain, ("diffsynth", "diffusers"))


def _beside(bench: Bench, task: str, cfg: Config, dtype: torch.dtype, references: Sequence[str]) -> None:
    """A row for this core and each reference that is installed; errors are relative to this core's largest value."""
    bench.drop()
    engines = ["exvideo", *(name for name in references if is_installed(name))]
    for row in harness.compare(task, cfg, engines, dtype, bench.device.type, rounds=2):
        bench.record.put(task, **row)
