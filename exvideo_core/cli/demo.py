"""`exvideo demo`: a small clip from a picture or a sentence, with the embedded demo models."""

from __future__ import annotations

import argparse
from pathlib import Path

from .. import demo_models
from ..families.cogvideox import command as generate_cogvideox
from ..families.cogvideox.pipeline import load_cogvideox
from ..families.svd import command as generate
from ..families.svd.pipeline import load_svd
from ..lora import apply_lora
from ..terminal.output_options import check_output, saved_run
from ..video.pictures import read_picture

_PROMPT = "a red circle swings on white"  # of the kind that the model was trained on


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    # It takes everything as it is, for the options depend on the model: the parser of that model reads them.
    parser = subparsers.add_parser(
        "demo", help="make a small clip with an embedded demo model", add_help=False, prefix_chars="\0"
    )
    parser.add_argument("options", nargs=argparse.REMAINDER)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    chosen, _ = _parser(add_help=False).parse_known_args(arguments.options)
    parser = _parser(prog=f"exvideo demo --model {chosen.model}")
    add_options, make = _MODELS[chosen.model]
    add_options(parser)
    make(parser.parse_args(arguments.options))
    return 0


def _parser(prog: str = "exvideo demo", *, add_help: bool = True) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, add_help=add_help, allow_abbrev=False)
    parser.add_argument(
        "--model", choices=_MODELS, default="svd", help="each has options of its own: --model cogvideox --help"
    )
    return parser


def _add_svd(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--image", type=Path, required=True, help="the first frame")
    generate.add_settings(parser)
    # the demo model was trained on such clips and without guidance
    parser.set_defaults(width=128, height=128, steps=12, min_guidance_scale=1.0, max_guidance_scale=1.0, contrast=1.0)


def _make_svd(arguments: argparse.Namespace) -> None:
    check_output(arguments)
    image = read_picture(arguments.image)
    pipeline = load_svd(demo_models.SVD, demo_models.SVD_EXTENSION)
    generate.make_clip(pipeline, image, arguments)


def _add_cogvideox(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompt", default=_PROMPT, help="colour, shape, motion and ground (%(default)s)")
    generate_cogvideox.add_settings(parser)
    parser.set_defaults(width=96, height=96, steps=20, guidance_scale=3.0)  # the clips it was trained on


def _make_cogvideox(arguments: argparse.Namespace) -> None:
    init_video = generate_cogvideox.check_settings(arguments)
    pipeline = load_cogvideox(
        demo_models.COGVIDEOX_TRANSFORMER,
        text_encoder=demo_models.COGVIDEOX_TEXT_ENCODER,
        vae=demo_models.COGVIDEOX_VAE,
    )
    apply_lora(pipeline, demo_models.COGVIDEOX_LORA)
    generate_cogvideox.make_clip(pipeline, init_video, arguments, saved_run(arguments))


_MODELS = {"svd": (_add_svd, _make_svd), "cogvideox": (_add_cogvideox, _make_cogvideox)}
