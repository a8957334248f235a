"""`exvideo generate cogvideox`: a clip from one sentence."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ...errors import ExVideoError
from ...estimate import Clip, Estimate
from ...family import Command, Demo
from ...lora import LoRA, apply_lora, merge, read_lora
from ...runtime.distributed import init_world
from ...runtime.resume import SavedRun
from ...sampling.guidance import rising_guidance
from ...sampling.inputs import check_init_video
from ...terminal.model_options import add_loading, add_sampling, make_faster, place_of
from ...terminal.output_options import add_output, check_output, make_clip, saved_run
from ...terminal.progress import say
from ...video import load_frames
from ...weights.assign import shapes_of
from ...weights.formats import FORMATS
from .checkpoint import read_transformer, read_vae
from .config import TransformerConfig, VAEConfig
from .estimate import estimate_cogvideox
from .files import DEMO_LORA, DEMO_TEXT_ENCODER, DEMO_TRANSFORMER, DEMO_VAE
from .geometry import GEOMETRY
from .methods import METHODS, check_steps
from .pipeline import CogVideoXPipeline, CogVideoXResult, load_cogvideox
from .sequence_parallel import share_tokens


def _add_options(parser: argparse.ArgumentParser) -> None:
    anywhere = "a file, its shards' folder, or the diffusers folder of the whole model"
    add = parser.add_argument
    add("--transformer", type=Path, required=True, help=f"of CogVideoX-5B: {anywhere}")
    add("--text-encoder", type=Path, required=True, help=f"T5 v1.1 XXL: {anywhere}")
    add("--vae", type=Path, required=True, help=f"of CogVideoX: {anywhere}")
    add("--lora", action="append", default=[], metavar="FILE[:STRENGTH]", help="ExVideo's, or others; repeatable")
    add_loading(parser, "bf16 on CUDA, else fp32")
    add("--prompt", required=True, help="what to show")
    _add_settings(parser)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """Add the options of every clip, whatever model files it is made with."""
    add = parser.add_argument
    add("--negative", default="", help="what to keep away from")
    add_output(parser)
    add("--frames", type=int, default=129, help="length, 8 k + 1 (%(default)s)")
    add("--width", type=int, default=720, help="pixels, a multiple of 16 (%(default)s)")
    add("--height", type=int, default=480, help="pixels, a multiple of 16 (%(default)s)")
    add("--fps", type=_positive(float), default=8, help="frames a second (%(default)s, as CogVideoX was trained)")
    add_sampling(parser, METHODS, "model calls, pairs of them with guidance")
    add(
        "--guidance-scale",
        type=float,
        default=7.0,
        help="how closely to follow the prompt; 1 is twice as fast (%(default)s)",
    )
    add("--dynamic-guidance", action="store_true", help="let the guidance rise from 1 to 1 + the scale over the steps")
    add(
        "--decode-tile",
        type=_positive(int),
        help="decode in tiles of so many latent cells: less memory, not quite the same",
    )


def _run(arguments: argparse.Namespace) -> None:
    init_video = _checked_init_video(arguments)
    loras = [_lora(text) for text in arguments.lora]
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        _run_shared(init_video, loras, arguments)
        return
    pipeline, reports = _loaded(arguments, arguments.device, loras)
    sys.stderr.write(reports)
    _make_clip(pipeline, init_video, arguments, saved_run(arguments))


def _run_shared(
    init_video: list[Tensor] | None, loras: list[tuple[LoRA, float]], arguments: argparse.Namespace
) -> None:
    """In the processes that torchrun started: all denoise together, and the first reports, decodes and writes."""
    if "," in (arguments.device or ""):
        raise ExVideoError(
            f"--device {arguments.device} is for one process; torchrun's have a GPU each: leave it out, or give cpu."
        )
    with init_world(arguments.device) as world:
        pipeline, reports = _loaded(arguments, world.device, loras)
        share_tokens(pipeline.transformer)
        if world.is_first:
            sys.stderr.write(reports)
            # each process would save its own part, and all would have to resume at one step
            say("several processes save no steps: if this run is interrupted, it starts over.")
            _make_clip(pipeline, init_video, arguments, resume=None)
        else:
            with suppress(_Denoised):
                _call(pipeline, init_video, arguments)(callback=_leave_after_the_last_step)


def _loaded(
    arguments: argparse.Namespace, device: str | torch.device | None, loras: list[tuple[LoRA, float]]
) -> tuple[CogVideoXPipeline, str]:
    """The pipeline with its LoRAs, and a report on each."""
    pipeline = load_cogvideox(
        arguments.transformer,
        text_encoder=arguments.text_encoder,
        vae=arguments.vae,
        dtype=FORMATS.get(arguments.dtype),
        device=device,
        attention=arguments.attention,
        stream=arguments.stream,
    )
    reports = "".join(f"{merge(pipeline.transformer, lora, strength)}\n" for lora, strength in loras)
    make_faster(pipeline.transformer, arguments)
    return pipeline, reports


class _Denoised(Exception):  # noqa: N818  nothing went wrong
    """Raised after the last step in a process that neither decodes nor writes."""


def _leave_after_the_last_step(step: int, steps: int, _denoised: Tensor) -> None:
    if step == steps:
        raise _Denoised


def _estimate(arguments: argparse.Namespace) -> Estimate:
    _check(arguments)
    transformer = TransformerConfig.from_shapes(shapes_of(read_transformer(arguments.transformer).weights))
    vae = VAEConfig.from_shapes(shapes_of(read_vae(arguments.vae).weights))
    clip = Clip(
        frames=arguments.frames,
        height=arguments.height,
        width=arguments.width,
        steps=arguments.steps,
        is_guided=arguments.guidance_scale != 1 or arguments.dynamic_guidance,
        decode_tile=arguments.decode_tile,
    )
    return estimate_cogvideox(transformer, vae, clip, place_of(arguments, torch.bfloat16))


def _check(arguments: argparse.Namespace) -> None:
    GEOMETRY.check_size(arguments.width, arguments.height)
    GEOMETRY.check_frames(arguments.frames)
    check_steps(arguments.steps, arguments.denoise)


def _checked_init_video(arguments: argparse.Namespace) -> list[Tensor] | None:
    """Check all that can be checked before gigabytes are read; returns the frames of --init-video."""
    check_output(arguments)
    _check(arguments)
    init_video = list(load_frames(arguments.init_video)) if arguments.init_video else None
    check_init_video(init_video, arguments.frames, arguments.denoise)
    return init_video


def _make_clip(
    pipeline: CogVideoXPipeline, init_video: list[Tensor] | None, arguments: argparse.Namespace, resume: SavedRun | None
) -> None:
    call = _call(pipeline, init_video, arguments)
    decode = partial(pipeline.decode, tile=arguments.decode_tile)
    make_clip(call, decode, "chunk", arguments.fps, arguments, resume)


def _call(
    pipeline: CogVideoXPipeline, init_video: list[Tensor] | None, arguments: argparse.Namespace
) -> partial[CogVideoXResult]:
    """The pipeline with its settings, but for callback, output_type and resume."""
    scale, steps = arguments.guidance_scale, arguments.steps
    return partial(
        pipeline,
        arguments.prompt,
        negative_prompt=arguments.negative,
        num_frames=arguments.frames,
        height=arguments.height,
        width=arguments.width,
        guidance_scale=rising_guidance(steps, scale) if arguments.dynamic_guidance else scale,
        num_inference_steps=steps,
        denoise=arguments.denoise,
        init_video=init_video,
        seed=arguments.seed,
        method=arguments.method,
        reuse=arguments.reuse,
    )


def _add_demo_options(parser: argparse.ArgumentParser) -> None:
    prompt = "a red circle swings on white"  # of the kind that the demo model was trained on
    parser.add_argument("--prompt", default=prompt, help="colour, shape, motion and ground (%(default)s)")
    _add_settings(parser)
    parser.set_defaults(width=96, height=96, steps=20, guidance_scale=3.0)  # the clips it was trained on


def _run_demo(arguments: argparse.Namespace) -> None:
    init_video = _checked_init_video(arguments)
    pipeline = load_cogvideox(DEMO_TRANSFORMER, text_encoder=DEMO_TEXT_ENCODER, vae=DEMO_VAE)
    apply_lora(pipeline, DEMO_LORA)
    _make_clip(pipeline, init_video, arguments, saved_run(arguments))


def _lora(text: str) -> tuple[LoRA, float]:
    """Parse FILE[:STRENGTH]; a colon without a number after it is part of the path."""
    path, _, number = text.rpartition(":")
    try:
        strength = float(number)
    except ValueError:
        path, strength = text, 1.0
    return read_lora(path), strength


def _positive(number: type[int] | type[float]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = number(text)
        if not 0 < value < math.inf:
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return value

    return parse


COMMAND = Command(
    help="from one sentence, with CogVideoX-5B",
    add_options=_add_options,
    run=_run,
    estimate=_estimate,
    demo=Demo(add_options=_add_demo_options, run=_run_demo),
)
