"""`--estimate` of `exvideo generate`: what a clip would take, from the headers of its files."""

from __future__ import annotations

import argparse

import torch

from ..estimate import Place
from ..sampling.inputs import chosen_devices
from ..weights.formats import FORMATS


def add_estimate(parser: argparse.ArgumentParser) -> None:
    """Add the option."""
    parser.add_argument(
        "--estimate", action="store_true", help="say how long it would take, and in how much memory, and make nothing"
    )


def place_of(arguments: argparse.Namespace, on_cuda: torch.dtype) -> Place:
    """Device and number format of a clip, as the loaders choose them."""
    device, *_ = chosen_devices(arguments.device)
    usual = on_cuda if device.type == "cuda" else torch.float32
    return Place(device=device, dtype=FORMATS.get(arguments.dtype, usual), is_streamed=arguments.stream)
