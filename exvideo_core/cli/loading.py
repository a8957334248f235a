"""Options that say how a model is loaded, whichever it is."""

from __future__ import annotations

import argparse

import torch

from ..attention import BACKENDS

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def add_loading(parser: argparse.ArgumentParser, usual_dtype: str) -> None:
    """Add --dtype, --device and --attention."""
    parser.add_argument("--dtype", choices=DTYPES, help=f"of the networks (default: {usual_dtype})")
    parser.add_argument("--device", help="such as cuda, cuda:1 or cpu")
    parser.add_argument("--attention", choices=BACKENDS, default="sdpa", help="attention kernel (default: %(default)s)")
