"""Options of every model: loading, sampling, and what a clip would take."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from pathlib import Path

import torch
from torch import nn

from ..estimate import Place
from ..nn.attention import BACKENDS
from ..nn.fp8 import FP8
from ..nn.fused import fuse
from ..nn.kernels import kernels
from ..nn.step_cache import Reuse
from ..sampling.inputs import chosen_devices
from ..weights.formats import FORMATS


def add_loading(parser: argparse.ArgumentParser, usual_dtype: str) -> None:
    """Add --dtype, --device, --attention, --stream, --compile, --kernels and --fp8."""
    add = parser.add_argument
    add("--dtype", choices=FORMATS, help=f"of the networks (default: {usual_dtype})")
    add("--device", help="such as cuda, cuda:1 or cpu; two, as cuda:0,cuda:1, share guidance's work")
    add(
        "--attention",
        choices=BACKENDS,
        default="auto",
        help="kernel; auto chooses an exact one, sage is approximate (default: %(default)s)",
    )
    add(
        "--stream",
        action="store_true",
        help="stream the large network's weights from main memory, for a small GPU; same results",
    )
    add(
        "--compile",
        action="store_true",
        help="make one kernel of each chain of small operations with torch.compile, which takes a minute at first; the "
        "same within rounding",
    )
    add(
        "--kernels",
        choices=("auto", "off"),
        default="auto",
        help="Triton kernels on GPUs that have them, each compared with PyTorch's result before it is used; the same "
        "within rounding (default: %(default)s)",
    )
    add(
        "--fp8",
        choices=FP8,
        help="keep the large network's weights in 8 bits, or multiply in 8 bits as well (GeForce 40, H100 and newer): "
        "less memory, or time, and not quite the same",
    )


def make_faster(network: nn.Module, arguments: argparse.Namespace) -> None:
    """Apply --fp8, --compile and --kernels; call it after all LoRAs."""
    if arguments.fp8:
        FP8[arguments.fp8](network)
    fuse(arguments.compile)
    kernels(arguments.kernels)


def add_sampling(parser: argparse.ArgumentParser, methods: Collection[str], calls: str = "model calls") -> None:
    """Add --steps, --method (the first is the default), --reuse, --init-video, --denoise and --seed."""
    add = parser.add_argument
    add("--steps", type=int, default=50, help=f"{calls} (%(default)s)")
    add("--method", choices=methods, default=next(iter(methods)), help="way from noise to clip (%(default)s)")
    add(
        "--reuse",
        type=_reuse,
        metavar="THRESHOLD",
        help="leave out most of the network in steps that change less than this, such as 0.05: faster, and not quite "
        "the same (docs/approximations.md)",
    )
    add("--init-video", type=Path, help="video to start from; use with --denoise")
    add("--denoise", type=float, default=1.0, help="how far the video is changed, 0 to 1")
    add("--seed", type=int, default=0, help="of the noise (%(default)s)")


def _reuse(text: str) -> Reuse:
    try:
        return Reuse(threshold=float(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0 and below 1") from error


def place_of(arguments: argparse.Namespace, on_cuda: torch.dtype) -> Place:
    """Device and number format of a clip, as the loaders choose them."""
    device, *_ = chosen_devices(arguments.device)
    usual = on_cuda if device.type == "cuda" else torch.float32
    return Place(device=device, dtype=FORMATS.get(arguments.dtype, usual), is_streamed=arguments.stream)
