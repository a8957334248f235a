"""Whole jobs: from noise to frames, with random weights of the published sizes.

    python benchmarks/jobs.py svd_512 --engine exvideo --device cuda
    python benchmarks/jobs.py cog_129f --engine diffusers --device cuda --steps 5

This core runs its own pipelines. The references' networks run in a minimal loop: both branches of guidance and a solver
step, then their own decoding. Text encoders are left out. One step is run first as warm-up.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from PIL import Image
from torch import Tensor

from benchmarks import memory, tasks
from benchmarks.engines import engine
from exvideo_core.families.cogvideox import config as cog
from exvideo_core.families.cogvideox.pipeline import CogVideoXPipeline
from exvideo_core.families.cogvideox.transformer import CogVideoXTransformer, blocks_of
from exvideo_core.families.cogvideox.vae import CogVideoXVAE
from exvideo_core.families.svd.config import ImageEncoderConfig, UNetConfig, VAEConfig
from exvideo_core.families.svd.image_encoder import ImageEncoder, fill_buffers
from exvideo_core.families.svd.pipeline import SVDPipeline
from exvideo_core.families.svd.unet import SVDUNet
from exvideo_core.families.svd.vae import VAE
from exvideo_core.nn.attention import auto
from exvideo_core.nn.convolution import lay_out_weights
from exvideo_core.runtime.weight_streaming import WeightStream

Run = Callable[[int], None]  # runs a job with a number of steps


@dataclass(frozen=True, kw_only=True)
class Job:
    """A clip to generate.

    Attributes:
        frames: pixel frames.
        height, width: in pixels.
        steps: model calls of each guidance branch.
        denoise: below 1, video to video from a clip of equal size.
        is_streamed: whether the transformer's weights are streamed from host memory.
        narrow: divides widths (the references' number of layers), to try the script without a GPU.
    """

    model: str
    frames: int
    height: int
    width: int
    steps: int
    denoise: float = 1.0
    is_streamed: bool = False
    narrow: int = 1


JOBS: Mapping[str, Job] = {
    "svd_512": Job(model="svd", frames=128, height=512, width=512, steps=50),
    "svd_1024_second_pass": Job(model="svd", frames=128, height=1024, width=1024, steps=25, denoise=0.5),
    "cog_129f": Job(model="cogvideox", frames=129, height=480, width=720, steps=50),
    "cog_129f_streamed": Job(model="cogvideox", frames=129, height=480, width=720, steps=50, is_streamed=True),
}
_TYPES = {"svd": torch.float16, "cogvideox": torch.bfloat16}  # on CUDA


def measure(job: Job, name: str, device: str) -> dict[str, Any]:
    """Run a job once.

    Returns:
        `seconds` in total, of one step and of the rest; on CUDA `allocated_bytes` and `reserved_bytes`, the peaks of
        PyTorch's tensors and of its allocator; else `process_bytes`.
    """
    dtype = _TYPES[job.model] if device.startswith("cuda") else torch.float32
    with torch.no_grad():
        run = (_own if name == "exvideo" else _theirs)(job, name, dtype, device)
        once = _seconds(run, 1, device)
        once = min(once, _seconds(run, 1, device))  # the first run selects kernels
        memory.reset(device)
        whole = _seconds(run, job.steps, device) if job.steps > 1 else once
    step = (whole - once) / max(1, job.steps - 1)
    row = {"engine": name, "steps": job.steps, "seconds": whole, "step_seconds": step, "rest_seconds": once - step}
    if not device.startswith("cuda"):
        return row | {"process_bytes": memory.peak(device)}
    return row | {"allocated_bytes": memory.peak(device), "reserved_bytes": torch.cuda.max_memory_reserved()}


def _seconds(run: Run, steps: int, device: str) -> float:
    memory.wait(device)
    start = time.perf_counter()
    run(steps)
    memory.wait(device)
    return time.perf_counter() - start


# this core


def _own(job: Job, _name: str, dtype: torch.dtype, device: str) -> Run:
    return (_svd if job.model == "svd" else _cogvideox)(job, dtype, device)


def _svd(job: Job, dtype: torch.dtype, device: str) -> Run:
    widths = _narrowed(UNetConfig().widths, job)
    sizes = UNetConfig(widths=widths, extension_frames=128)
    unet = tasks.random_network(lambda: SVDUNet(sizes, attention=auto), dtype, device)
    vae = tasks.random_network(lambda: VAE(VAEConfig(widths=_narrowed(VAEConfig().widths, job))), dtype, device)
    for network in (unet, vae):
        lay_out_weights(network)  # as `load_svd` does
    layers = ImageEncoderConfig().num_hidden_layers // job.narrow
    # moved when it is used
    encoder = tasks.random_network(lambda: ImageEncoder(ImageEncoderConfig(num_hidden_layers=layers)), dtype, "cpu")
    fill_buffers(encoder.clip)
    pipeline = SVDPipeline(unet, vae, encoder)
    picture = Image.new("RGB", (job.width, job.height), (90, 120, 150))
    clip = [picture] * job.frames if job.denoise < 1 else None

    def run(steps: int) -> None:
        pipeline(
            picture,
            num_frames=job.frames,
            height=job.height,
            width=job.width,
            num_inference_steps=steps,
            denoise=job.denoise,
            init_video=clip,
        )

    return run


def _cogvideox(job: Job, dtype: torch.dtype, device: str) -> Run:
    sizes = cog.TransformerConfig(width=3072 // job.narrow, hidden=12288 // job.narrow, layers=42 // job.narrow)
    place = "cpu" if job.is_streamed else device
    transformer = tasks.random_network(lambda: CogVideoXTransformer(sizes, attention=auto), dtype, place)
    widths = _narrowed(cog.VAEConfig().widths, job)
    vae = tasks.random_network(lambda: CogVideoXVAE(cog.VAEConfig(widths=widths)), dtype, device)
    stream = None
    if job.is_streamed:
        stream = WeightStream(blocks_of, is_locked=device.startswith("cuda"))
        stream.place(transformer, torch.device(device), dtype)
    pipeline = CogVideoXPipeline(transformer, vae, devices=[torch.device(device)], stream=stream)
    text, nothing = torch.randn(2, 1, 226, sizes.text_dim, generator=torch.Generator().manual_seed(2)) / 4

    def run(steps: int) -> None:
        pipeline(
            num_frames=job.frames,
            height=job.height,
            width=job.width,
            num_inference_steps=steps,
            prompt_embeds=text,
            negative_prompt_embeds=nothing,
        )

    return run


def _narrowed(widths: Sequence[int], job: Job) -> tuple[int, ...]:
    return tuple(max(8, width // job.narrow // 8 * 8) for width in widths)


# the references


def _theirs(job: Job, name: str, dtype: torch.dtype, device: str) -> Run:
    task, coder = ("svd_unet", "svd_vae") if job.model == "svd" else ("cog_dit", "cog_vae")
    latent_frames = job.frames if job.model == "svd" else (job.frames - 1) // 4 + 1
    cfg = {"frames": latent_frames, "h": job.height // 8, "w": job.width // 8, "layers": 42 // job.narrow}
    cfg["ext"] = 0 if name == "diffusers" else 128
    predict = engine(name).build(task, cfg, tasks.weights(task, cfg, dtype, device))
    decode = _decoding(engine(name), coder, cfg, tasks.weights(coder, cfg, dtype, device))
    given = tasks.inputs(task, cfg, dtype, device)
    noisy = "sample" if job.model == "svd" else "latents"

    def run(steps: int) -> None:
        x = given[noisy].clone()
        for _ in range(steps):
            positive, negative = (predict(given | {noisy: x}) for _ in range(2))
            velocity = negative + 2 * (positive - negative)
            x[:, : velocity.shape[1]] -= velocity / steps
        decode(x[:, : velocity.shape[1]])

    return run


def _decoding(networks: Any, task: str, cfg: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Callable[..., object]:
    """Decoder call of a reference: DiffSynth's windows of 8 frames with stride 4 for SVD, else one call."""
    module, call = networks.network(task, cfg)
    module.load_state_dict(networks.tasks[task][1](weights), assign=True)
    if networks.name == "diffsynth" and task == "svd_vae":
        return lambda latents: module.decode_video(latents, progress_bar=lambda windows: windows)
    return lambda latents: call({"latents": latents})


def main(argv: Sequence[str] | None = None) -> int:
    """Run one job and print its row as JSON."""
    arguments = arguments_of(sys.argv[1:] if argv is None else argv)
    job = JOBS[arguments.job]
    job = replace(
        job,
        steps=arguments.steps or job.steps,
        frames=arguments.frames or job.frames,
        height=arguments.side or job.height,
        width=arguments.side or job.width,
        narrow=arguments.narrow,
    )
    print(json.dumps(measure(job, arguments.engine, arguments.device)))
    return 0


def arguments_of(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=JOBS)
    parser.add_argument("--engine", default="exvideo", help="exvideo, diffsynth or diffusers (%(default)s)")
    parser.add_argument("--device", default="cuda", help="%(default)s")
    parser.add_argument("--steps", type=int, help="instead of the job's")
    parser.add_argument("--frames", type=int, help="instead of the job's")
    parser.add_argument("--side", type=int, help="height and width in pixels, instead of the job's")
    parser.add_argument("--narrow", type=int, default=1, help="divide widths (references: layers), to try the script")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
