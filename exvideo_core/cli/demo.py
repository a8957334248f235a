"""`exvideo demo`: a small clip from a picture with the embedded demo model."""

from __future__ import annotations

import argparse
from pathlib import Path

from .. import demo_models
from ..pipelines.svd import load_svd
from ..video import check_target
from . import generate


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser("demo", help="make a small clip with the embedded demo model")
    parser.add_argument("--image", type=Path, required=True, help="the first frame")
    generate.add_settings(parser)
    # the demo model was trained on such clips and without guidance
    parser.set_defaults(
        run=_run, width=128, height=128, steps=12, min_guidance_scale=1.0, max_guidance_scale=1.0, contrast=1.0
    )


def _run(arguments: argparse.Namespace) -> int:
    check_target(arguments.output)
    image = generate.read_picture(arguments.image)
    pipeline = load_svd(demo_models.SVD, demo_models.SVD_EXTENSION)
    generate.make_clip(pipeline, image, arguments)
    return 0
