"""The toy's pipeline, estimate, inspection and command."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from exvideo_core.estimate import Clip, Estimate, Place
from exvideo_core.estimate.counting import Counts, count
from exvideo_core.estimate.jobs import Estimates, on_meta, total
from exvideo_core.family import Command, Inspection
from exvideo_core.lora import apply_lora, read_lora
from exvideo_core.nn.chunks import CHUNK_BYTES
from exvideo_core.nn.nan_check import checked
from exvideo_core.nn.step_cache import StepCache
from exvideo_core.runtime.guidance_branches import Branches
from exvideo_core.runtime.resume import Resume
from exvideo_core.sampling.denoisers import Denoiser
from exvideo_core.sampling.inputs import SeededNoise, named
from exvideo_core.sampling.run import sample
from exvideo_core.sampling.samplers import Callback
from exvideo_core.terminal.output_options import add_output, check_output, saved_run, write_output
from exvideo_core.terminal.progress import Bar
from exvideo_core.video.frames import pixels_to_frames
from exvideo_core.weights.kind import Kind
from exvideo_core.weights.safetensors_files import WeightFile

from .network import GEOMETRY, LORA, METHODS, NETWORK, ToyConfig, ToyNetwork, build_toy, levels_of, read_toy


class ToyPipeline:
    """From noise to frames. The network is called `transformer`, as `apply_lora` expects."""

    def __init__(self, network: ToyNetwork) -> None:
        self.transformer = network

    @torch.inference_mode()
    def __call__(
        self,
        *,
        num_frames: int = 6,
        height: int = 16,
        width: int = 16,
        num_inference_steps: int = 4,
        method: str = "flow",
        seed: int = 0,
        callback: Callback | None = None,
        resume: Resume = None,
    ) -> Tensor:
        """Frames [T, H, W, 3] in [0, 1]."""
        GEOMETRY.check_size(width, height)
        GEOMETRY.check_frames(num_frames)
        way = named("method", method, METHODS)
        frames, rows, columns = GEOMETRY.latent_shape(num_frames, height, width)
        levels, draw = levels_of(way.schedule(num_inference_steps, 1.0)), SeededNoise((frames, 3, rows, columns), seed)
        result = sample(
            self.transformer,
            way,
            levels.start(draw()),
            levels,
            _denoiser,
            devices=[torch.device("cpu")],
            resume=resume,
            callback=callback,
            draw=draw,
            settings={"seed": seed},
        )
        return pixels_to_frames(result)


def _denoiser(networks: Branches, _cache: StepCache | None) -> Denoiser:
    def velocity(network: ToyNetwork, x_TCHW: Tensor, level: Tensor) -> Tensor:
        return checked(network(x_TCHW, level), network, partial(network, x_TCHW, level), {"the noise": x_TCHW})

    return lambda x_TCHW, level: x_TCHW - level * networks.one(velocity, (x_TCHW, level))


def load_toy(path: str | Path) -> ToyPipeline:
    return ToyPipeline(build_toy(read_toy(Path(path)), Path(path).name))


# --estimate


def count_call(
    config: ToyConfig, latent_shape: tuple[int, int, int], dtype: torch.dtype, chunk_bytes: int = CHUNK_BYTES
) -> Counts:
    frames, height, width = latent_shape
    network = on_meta(lambda: ToyNetwork(config), dtype)
    network.chunk_bytes = chunk_bytes
    return count(lambda: network(torch.empty(frames, 3, height, width, dtype=dtype), torch.empty(1)))


def estimate_toy(config: ToyConfig, clip: Clip, place: Place) -> Estimate:
    shape = GEOMETRY.latent_shape(clip.frames, clip.height, clip.width)
    network = on_meta(lambda: ToyNetwork(config), place.dtype)
    return total(
        clip,
        place,
        denoiser=network,
        blocks=[network.first, network.second],
        call=count_call(config, shape, place.dtype),
        decoding=[(count(lambda: torch.empty(shape, device="meta") + 1), 1)],
        other_weights=0,
    )


ESTIMATES = Estimates(
    call=count_call,
    usual=lambda _config: Clip(frames=6, height=16, width=16, steps=4, is_guided=False),
    geometry=GEOMETRY,
)


# inspect


def _inspect(source: Path | WeightFile, kind: Kind) -> str | None:
    if kind is NETWORK:
        build_toy(read_toy(source), source.name)
        return "yes"
    if kind is LORA:
        return f"yes, {len(read_lora(source).pairs)} weights"
    return None


INSPECTION = Inspection(folders=("toy",), load=_inspect)


# generate


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_output(parser)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--lora", type=Path)
    parser.add_argument("--method", choices=METHODS, default="flow")
    for name, default in {"frames": 6, "width": 16, "height": 16, "steps": 4, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=default)


def _run(arguments: argparse.Namespace) -> None:
    check_output(arguments)
    pipeline = load_toy(arguments.weights)
    if arguments.lora:
        sys.stderr.write(f"{apply_lora(pipeline, arguments.lora)}\n")
    with Bar("sampling", "step") as sampling:
        frames = pipeline(
            num_frames=arguments.frames,
            height=arguments.height,
            width=arguments.width,
            num_inference_steps=arguments.steps,
            method=arguments.method,
            seed=arguments.seed,
            callback=lambda step, steps, _denoised: sampling(step, steps),
            resume=saved_run(arguments),
        )
    write_output(frames, 8, arguments)


def _estimate(arguments: argparse.Namespace) -> Estimate:
    GEOMETRY.check_size(arguments.width, arguments.height)
    clip = Clip(
        frames=arguments.frames, height=arguments.height, width=arguments.width, steps=arguments.steps, is_guided=False
    )
    config = load_toy(arguments.weights).transformer.config
    return estimate_toy(config, clip, Place(device=torch.device("cpu"), dtype=torch.float32))


COMMAND = Command(help="from nothing, with the toy", add_options=_add_options, run=_run, estimate=_estimate)
