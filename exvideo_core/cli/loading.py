"""Options that say how a model is loaded, whichever it is."""

from __future__ import annotations

import argparse

from ..attention import BACKENDS
from ..formats import FORMATS


def add_loading(parser: argparse.ArgumentParser, usual_dtype: str) -> None:
    """Add --dtype, --device, --attention and --stream."""
    parser.add_argument("--dtype", choices=FORMATS, help=f"of the networks (default: {usual_dtype})")
    parser.add_argument("--device", help="such as cuda, cuda:1 or cpu; two, as cuda:0,cuda:1, share guidance's work")
    parser.add_argument(
        "--attention",
        choices=BACKENDS,
        default="auto",
        help="kernel; auto chooses an exact one, sage is approximate (default: %(default)s)",
    )
    parser.add_argument(
        "--stream", action="store_true", help="keep the large network in main memory, for a small card; same results"
    )
