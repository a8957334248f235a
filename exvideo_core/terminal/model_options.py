"""Options of every model: loading, and faster steps."""

from __future__ import annotations

import argparse

from torch import nn

from ..nn.attention import BACKENDS
from ..nn.fp8 import FP8
from ..nn.fused import fuse
from ..nn.step_cache import Reuse
from ..weights.formats import FORMATS


def add_loading(parser: argparse.ArgumentParser, usual_dtype: str) -> None:
    """Add --dtype, --device, --attention, --stream, --compile and --fp8."""
    parser.add_argument("--dtype", choices=FORMATS, help=f"of the networks (default: {usual_dtype})")
    parser.add_argument("--device", help="such as cuda, cuda:1 or cpu; two, as cuda:0,cuda:1, share guidance's work")
    parser.add_argument(
        "--attention",
        choices=BACKENDS,
        default="auto",
        help="kernel; auto chooses an exact one, sage is approximate (default: %(default)s)",
    )
    parser.add_argument(
        "--stream",
        action="store_true",
        help="stream the large network's weights from main memory, for a small GPU; same results",
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="make one kernel of each chain of small operations with torch.compile, which takes a minute at first; the "
        "same within rounding",
    )
    parser.add_argument(
        "--fp8",
        choices=FP8,
        help="keep the large network's weights in 8 bits, or multiply in 8 bits as well (GeForce 40, H100 and newer): "
        "less memory, or time, and not quite the same",
    )


def make_faster(network: nn.Module, arguments: argparse.Namespace) -> None:
    """Apply --fp8 and --compile; call it after all LoRAs."""
    if arguments.fp8:
        FP8[arguments.fp8](network)
    fuse(arguments.compile)


def add_reuse(parser: argparse.ArgumentParser) -> None:
    """Add --reuse."""
    parser.add_argument(
        "--reuse",
        type=_reuse,
        metavar="THRESHOLD",
        help="leave out most of the network in steps that change less than this, such as 0.05: faster, and not quite "
        "the same (docs/approximations.md)",
    )


def _reuse(text: str) -> Reuse:
    try:
        return Reuse(threshold=float(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0 and below 1") from error
