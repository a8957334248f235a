"""Error and time saved of each approximation on the embedded demo models, as Markdown tables.

    python benchmarks/approximations.py [reuse] [fp8] [steps] [presets]

Error is the norm of the latents' difference to the exact ones, relative to their norm; PSNR is of the frames. Time is
the process's CPU time for the whole clip including decoding, relative to the exact run's.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from PIL import Image

from exvideo_core import apply_lora, load_cogvideox, load_svd
from exvideo_core.families.cogvideox.files import DEMO_LORA, DEMO_TEXT_ENCODER, DEMO_TRANSFORMER, DEMO_VAE
from exvideo_core.families.svd.files import DEMO_CHECKPOINT, DEMO_EXTENSION
from exvideo_core.nn.fp8 import FP8
from exvideo_core.nn.step_cache import Reuse

STEPS = 50
Clip = Callable[..., Any]


def svd(guidance: float = 1.0, fp8: str | None = None) -> Clip:
    """24 frames from the example image; the demo model was trained for sampling without guidance."""
    pipeline = load_svd(DEMO_CHECKPOINT, DEMO_EXTENSION, device="cpu")
    if fp8:
        FP8[fp8](pipeline.unet)
    scales = {"min_guidance_scale": guidance, "max_guidance_scale": guidance}
    image = Image.open(ROOT / "samples" / "astronaut.png")
    size = {"num_frames": 24, "height": 128, "width": 128}
    return partial(pipeline, image, num_inference_steps=STEPS, contrast=1.0, seed=1, **size, **scales)


def cogvideox(fp8: str | None = None) -> Clip:
    """33 frames of one prompt, with guidance 3."""
    networks = {"text_encoder": DEMO_TEXT_ENCODER, "vae": DEMO_VAE}
    pipeline = load_cogvideox(DEMO_TRANSFORMER, device="cpu", **networks)
    apply_lora(pipeline, DEMO_LORA)
    if fp8:
        FP8[fp8](pipeline.transformer)
    size = {"num_frames": 33, "height": 96, "width": 96, "guidance_scale": 3.0}
    return partial(pipeline, "a red circle swings on white", num_inference_steps=STEPS, seed=1, **size)


class Table:
    """Runs compared with an exact one, printed one by one."""

    def __init__(self, title: str, exact: Clip) -> None:
        self.exact, self.seconds = self._timed(exact)
        print(f"\n### {title}\n\n| | error | PSNR | time |\n| --- | --- | --- | --- |", flush=True)

    def add(self, name: str, clip: Clip) -> None:
        found, seconds = self._timed(clip)
        difference = (found.latents - self.exact.latents).norm() / self.exact.latents.norm()
        noise = float((found.frames - self.exact.frames).square().mean())
        psnr = -10 * math.log10(noise) if noise else math.inf
        print(f"| {name} | {difference:.4f} | {psnr:.0f} dB | {seconds / self.seconds:.2f} |", flush=True)

    @staticmethod
    def _timed(clip: Clip) -> tuple[Any, float]:
        start = time.process_time()
        return clip(), time.process_time() - start


def reuse() -> None:
    """Step reuse, compared with fewer steps."""
    for title, clip in (
        ("SVD, 50 steps, no guidance", svd()),
        ("SVD, 50 steps, guidance 2", svd(2.0)),
        ("CogVideoX, 50 steps, guidance 3", cogvideox()),
    ):
        table = Table(title, clip)
        for threshold in (0.03, 0.05, 0.08, 0.12, 0.2):
            table.add(f"reuse {threshold}", partial(clip, reuse=Reuse(threshold=threshold)))
        for steps in (40, 33, 25, 20):
            table.add(f"{steps} steps", partial(clip, num_inference_steps=steps))


def fp8() -> None:
    """Weights in fp8, and matrix products in fp8."""
    for title, clip in (("SVD, 50 steps", svd), ("CogVideoX, 50 steps", cogvideox)):
        table = Table(title, clip())
        for mode in FP8:
            table.add(f"fp8 {mode}", clip(fp8=mode))


def steps() -> None:
    """Fewer steps with each method, compared with 200 of the first."""
    for title, clip, methods in (
        ("SVD, no guidance: to 200 steps of Euler", svd(), ("euler", "dpmpp_2m")),
        ("SVD, guidance 2: to 200 steps of Euler", svd(2.0), ("euler", "dpmpp_2m")),
        ("CogVideoX, guidance 3: to 200 steps of DDIM", cogvideox(), ("ddim", "ddim_trailing", "dpmpp_2m")),
    ):
        table = Table(title, partial(clip, num_inference_steps=200))
        for count in (10, 15, 20, 25, 50):
            for method in methods:
                table.add(f"{count} {method}", partial(clip, num_inference_steps=count, method=method))


def presets() -> None:
    """ExVideo Sampler's "fast" preset and its settings one by one, compared with "quality"."""
    for title, clip in (
        ("SVD, guidance 2: to 50 steps", svd(2.0)),
        ("CogVideoX, guidance 3: to 50 steps", cogvideox()),
    ):
        table = Table(title, clip)
        for count, threshold in ((25, None), (25, 0.05), (25, 0.08), (25, 0.12), (50, 0.08)):
            reuse = None if threshold is None else Reuse(threshold=threshold)
            table.add(f"{count} steps, reuse {threshold}", partial(clip, num_inference_steps=count, reuse=reuse))


TABLES = {"reuse": reuse, "fp8": fp8, "steps": steps, "presets": presets}

if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:] or TABLES:
        TABLES[name]()
