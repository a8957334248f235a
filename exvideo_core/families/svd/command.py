"""`exvideo generate svd`: a clip from one picture."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ...errors import ClipError
from ...estimate import Clip, Estimate
from ...family import Command, Demo
from ...terminal.model_options import add_loading, add_sampling, make_faster, place_of
from ...terminal.output_options import add_output, check_output, make_clip, saved_run
from ...video import load_frames
from ...video.pictures import read_picture
from ...weights.assign import shapes_of
from ...weights.formats import FORMATS
from .checkpoint import read_svd
from .config import UNetConfig, VAEConfig
from .defaults import PLAIN, extended_defaults
from .estimate import estimate_svd
from .files import DEMO_CHECKPOINT, DEMO_EXTENSION
from .geometry import GEOMETRY
from .methods import METHODS
from .pipeline import SVDPipeline, load_svd
from .vae import SCALING_FACTOR


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--image", type=Path, required=True, help="the first frame")
    add("--checkpoint", type=Path, required=True, help="svd_xt.safetensors, or a diffusers folder")
    add("--extension", type=Path, help="model.fp16.safetensors of ExVideo-SVD-128f-v1, or your own")
    add_loading(parser, "fp16 on CUDA, else fp32")
    add("--width", type=int, default=512, help="pixels, a multiple of 8 (default: %(default)s)")
    add("--height", type=int, default=512, help="pixels, a multiple of 8 (default: %(default)s)")
    _add_settings(parser)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """Add the options of every clip, whatever model files it is made with."""
    add_output(parser)
    add = parser.add_argument
    add("--frames", type=int, help="length (default: the extension's, or 25)")
    add("--fps", type=float, help="frames a second (default: 30, or 7 without an extension)")
    add("--motion-bucket-id", type=float, default=127, help="amount of motion, 0 to 255 (%(default)s)")
    add("--noise-aug-strength", type=float, default=0.02, help="noise on the picture (%(default)s)")
    add_sampling(parser, METHODS)
    add("--min-guidance-scale", type=float, help="of the first frame (default: 2, or 1 without an extension)")
    add("--max-guidance-scale", type=float, help="of the last frame (default: 2, or 3 without an extension)")
    add("--normalize", action=argparse.BooleanOptionalAction, help="even out the frames (default: with an extension)")
    add("--contrast", type=float, help="factor on the latents (default: 1.2, or 1 without)")
    add(
        "--keyframe", action="append", default=[], metavar="INDEX=PICTURE", help="hold a frame to a picture; repeatable"
    )
    add("--encode-scale", type=float, default=SCALING_FACTOR, help="of given frames; 0.13025 as DiffSynth-Studio")


def _run(arguments: argparse.Namespace) -> None:
    check_output(arguments)
    image = read_picture(arguments.image)
    pipeline = load_svd(
        arguments.checkpoint,
        arguments.extension,
        dtype=FORMATS.get(arguments.dtype),
        device=arguments.device,
        attention=arguments.attention,
        stream=arguments.stream,
    )
    make_faster(pipeline.unet, arguments)
    _make_clip(pipeline, image, arguments)


def _estimate(arguments: argparse.Namespace) -> Estimate:
    GEOMETRY.check_size(arguments.width, arguments.height)
    weights = read_svd(arguments.checkpoint, arguments.extension)
    unet = UNetConfig.from_shapes(shapes_of(weights.unet))
    default = extended_defaults(unet.extension_frames) if unet.extension_frames else PLAIN
    frames = default.num_frames if arguments.frames is None else arguments.frames
    GEOMETRY.check_frames(frames, unet.extension_frames)
    first, last = arguments.min_guidance_scale, arguments.max_guidance_scale
    scales = (first, default.min_guidance_scale), (last, default.max_guidance_scale)
    clip = Clip(
        frames=frames,
        height=arguments.height,
        width=arguments.width,
        steps=arguments.steps,
        is_guided=any((usual if given is None else given) != 1 for given, usual in scales),
    )
    place = place_of(arguments, torch.float16)
    # the image encoder waits in host memory
    others = sum(weight.numel() for weight in weights.image_encoder.values()) if place.device.type == "cpu" else 0
    vae = VAEConfig.from_shapes(shapes_of(weights.vae))
    return estimate_svd(unet, vae, clip, place, others * place.dtype.itemsize)


def _add_demo_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--image", type=Path, required=True, help="the first frame")
    _add_settings(parser)
    # the demo model was trained on such clips and without guidance
    parser.set_defaults(width=128, height=128, steps=12, min_guidance_scale=1.0, max_guidance_scale=1.0, contrast=1.0)


def _run_demo(arguments: argparse.Namespace) -> None:
    check_output(arguments)
    image = read_picture(arguments.image)
    _make_clip(load_svd(DEMO_CHECKPOINT, DEMO_EXTENSION), image, arguments)


def _make_clip(pipeline: SVDPipeline, image: Image.Image, arguments: argparse.Namespace) -> None:
    fps = pipeline.defaults.fps if arguments.fps is None else arguments.fps
    call = partial(
        pipeline,
        image,
        num_frames=arguments.frames,
        height=arguments.height,
        width=arguments.width,
        fps=fps,
        motion_bucket_id=arguments.motion_bucket_id,
        noise_aug_strength=arguments.noise_aug_strength,
        num_inference_steps=arguments.steps,
        min_guidance_scale=arguments.min_guidance_scale,
        max_guidance_scale=arguments.max_guidance_scale,
        normalize=arguments.normalize,
        contrast=arguments.contrast,
        denoise=arguments.denoise,
        init_video=list(load_frames(arguments.init_video)) if arguments.init_video else None,
        keyframes=dict(map(_keyframe, arguments.keyframe)),
        encode_scale=arguments.encode_scale,
        seed=arguments.seed,
        method=arguments.method,
        reuse=arguments.reuse,
    )
    make_clip(call, pipeline.decode, "window", fps, arguments, saved_run(arguments))


def _keyframe(text: str) -> tuple[int, Image.Image | Tensor]:
    index, separator, path = text.partition("=")
    if not separator or not index.strip().isdigit():
        raise ClipError(f"--keyframe {text!r} is not of the form INDEX=PICTURE, such as 127=last.png.")
    return int(index), read_picture(Path(path))


COMMAND = Command(
    help="from one picture, with Stable Video Diffusion",
    add_options=_add_options,
    run=_run,
    estimate=_estimate,
    demo=Demo(add_options=_add_demo_options, run=_run_demo),
)
