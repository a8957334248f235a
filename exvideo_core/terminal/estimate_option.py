"""`--estimate` of `exvideo generate`: what a clip would take, from the headers of its files."""

from __future__ import annotations

import argparse

import torch

from ..estimate import Clip, Estimate, Place, estimate_cogvideox, estimate_svd
from ..families.cogvideox.checkpoint import read_transformer, read_vae
from ..families.cogvideox.config import TransformerConfig
from ..families.cogvideox.config import VAEConfig as CogVideoXVAEConfig
from ..families.cogvideox.geometry import GEOMETRY as COGVIDEOX
from ..families.cogvideox.pipeline import check_steps
from ..families.svd.checkpoint import read_svd
from ..families.svd.config import UNetConfig, VAEConfig
from ..families.svd.geometry import GEOMETRY as SVD
from ..families.svd.pipeline import PLAIN, extended_defaults
from ..sampling.inputs import chosen_devices
from ..weights.assign import shapes_of
from ..weights.formats import FORMATS


def add_estimate(parser: argparse.ArgumentParser) -> None:
    """Add the option."""
    parser.add_argument(
        "--estimate", action="store_true", help="say how long it would take, and in how much memory, and make nothing"
    )


def of_svd(arguments: argparse.Namespace) -> Estimate:
    """For the arguments of `exvideo generate svd`."""
    SVD.check_size(arguments.width, arguments.height)
    weights = read_svd(arguments.checkpoint, arguments.extension)
    unet = UNetConfig.from_shapes(shapes_of(weights.unet))
    vae = VAEConfig.from_shapes(shapes_of(weights.vae))
    default = extended_defaults(unet.extension_frames) if unet.extension_frames else PLAIN
    frames = default.num_frames if arguments.frames is None else arguments.frames
    SVD.check_frames(frames, unet.extension_frames)
    scales = (
        (arguments.min_guidance_scale, default.min_guidance_scale),
        (arguments.max_guidance_scale, default.max_guidance_scale),
    )
    clip = Clip(
        frames=frames,
        height=arguments.height,
        width=arguments.width,
        steps=arguments.steps,
        is_guided=any((usual if given is None else given) != 1 for given, usual in scales),
    )
    place = _place(arguments, torch.float16)
    # the image encoder waits in main memory
    others = sum(weight.numel() for weight in weights.image_encoder.values()) if place.device.type == "cpu" else 0
    return estimate_svd(unet, vae, clip, place, others * place.dtype.itemsize)


def of_cogvideox(arguments: argparse.Namespace) -> Estimate:
    """For the arguments of `exvideo generate cogvideox`."""
    COGVIDEOX.check_size(arguments.width, arguments.height)
    COGVIDEOX.check_frames(arguments.frames)
    check_steps(arguments.steps, arguments.denoise)
    transformer = TransformerConfig.from_shapes(shapes_of(read_transformer(arguments.transformer).weights))
    vae = CogVideoXVAEConfig.from_shapes(shapes_of(read_vae(arguments.vae).weights))
    clip = Clip(
        frames=arguments.frames,
        height=arguments.height,
        width=arguments.width,
        steps=arguments.steps,
        is_guided=arguments.guidance_scale != 1 or arguments.dynamic_guidance,
        decode_tile=arguments.decode_tile,
    )
    return estimate_cogvideox(transformer, vae, clip, _place(arguments, torch.bfloat16))


def _place(arguments: argparse.Namespace, on_cuda: torch.dtype) -> Place:
    """Where and in which format the clip would be made, as the loaders choose."""
    device, *_ = chosen_devices(arguments.device)
    usual = on_cuda if device.type == "cuda" else torch.float32
    return Place(device=device, dtype=FORMATS.get(arguments.dtype, usual), is_streamed=arguments.stream)
