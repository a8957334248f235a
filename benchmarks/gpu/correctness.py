"""Clips of the embedded demo models: GPU against CPU, and every way to compute a clip against the plain one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from PIL import Image

from benchmarks.gpu.bench import Bench, chunks_of, exact_float32, name_of
from exvideo_core import load_cogvideox, load_svd
from exvideo_core.families.cogvideox import files as cogvideox_files
from exvideo_core.families.svd import files as svd_files
from exvideo_core.nn.kernels import kernel_mode

Load = Callable[..., Any]  # device, dtype and stream to a pipeline
MakeClip = Callable[[Any], Any]  # a pipeline to its result, with `latents` and `frames`

# Relative error of a clip; what is wrong is off by a good part of 1.
_LIMITS = {torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 1e-1}
_CHUNKS = (2**22, 2**18)  # bytes, where the default is 2**28 or more


def svd(bench: Bench) -> None:
    """Image to video."""
    picture = Image.new("RGB", (128, 128), (200, 90, 40))
    picture.paste((20, 40, 220), (30, 30, 90, 90))
    frames = bench.size(16, 3)

    def make(pipeline: Any) -> Any:
        return pipeline(picture, num_frames=frames, height=128, width=128, num_inference_steps=bench.size(3, 1), seed=1)

    load = partial(load_svd, svd_files.DEMO_CHECKPOINT, svd_files.DEMO_EXTENSION)
    _compare(bench, load, make, bench.half)


def cogvideox(bench: Bench) -> None:
    """Text to video, from an embedding: the text encoder is another project's."""
    frames, side = bench.size((17, 96), (9, 48))
    text = torch.randn(2, 1, 226, 64, generator=torch.Generator().manual_seed(3)) / 4

    def make(pipeline: Any) -> Any:
        return pipeline(
            num_frames=frames,
            height=side,
            width=side,
            num_inference_steps=bench.size(3, 1),
            guidance_scale=3.0,
            seed=1,
            prompt_embeds=text[0],
            negative_prompt_embeds=text[1],
        )

    load = partial(load_cogvideox, cogvideox_files.DEMO_TRANSFORMER, vae=cogvideox_files.DEMO_VAE)
    _compare(bench, load, make, bench.brain)


def _compare(bench: Bench, load: Load, make: MakeClip, half: torch.dtype) -> None:
    with exact_float32():
        reference = make(load(device="cpu", dtype=torch.float32))
        for dtype in dict.fromkeys((torch.float32, half)):
            _compare_dtype(bench, partial(load, device=bench.device, dtype=dtype), make, dtype, reference)


def _compare_dtype(bench: Bench, load: Load, make: MakeClip, dtype: torch.dtype, reference: Any) -> None:
    check = partial(_check, bench, name_of(dtype))
    limit = _LIMITS[dtype]
    pipeline = load()
    clip = make(pipeline)
    check("to the CPU in float32", clip, reference, limit)
    check("again", make(pipeline), clip, 0)  # the first compared kernels with their twins, and has the kernels' results
    with kernel_mode("off"):
        check("without kernels", make(pipeline), clip, limit)
    network = pipeline.unet if hasattr(pipeline, "unet") else pipeline.transformer
    for chunk_bytes in _CHUNKS:
        with chunks_of(chunk_bytes, network, pipeline.vae):
            check(f"in chunks of {chunk_bytes >> 10} KiB", make(pipeline), clip, limit)
    check("streamed", make(load(stream=True)), clip, 0)


def _check(bench: Bench, dtype: str, name: str, ours: Any, reference: Any, limit: float) -> None:
    for part in ("latents", "frames"):
        bench.check(name, getattr(ours, part), getattr(reference, part), limit, dtype=dtype, of=part)
