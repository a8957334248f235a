"""`exvideo inspect FILE`: what a weight file is, and whether it would load."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..families.cogvideox import detect as cogvideox
from ..families.cogvideox.checkpoint import read_text_encoder, read_transformer, read_vae
from ..families.cogvideox.pipeline import build_text_encoder, build_transformer, build_vae
from ..families.svd import detect as svd
from ..families.svd.checkpoint import read_extension, read_svd
from ..families.svd.config import ImageEncoderConfig, UNetConfig, VAEConfig
from ..families.svd.image_encoder import build_clip
from ..families.svd.unet import SVDUNet
from ..families.svd.vae import VAE
from ..lora import read_lora
from ..nn.nan_check import describe_nonfinite, is_finite
from ..weights.assign import assign_weights, sized_by
from ..weights.detect import identify
from ..weights.kind import FileKind, Kind
from ..weights.safetensors_files import Shape, WeightFile, open_weights

_COGVIDEOX = ("transformer", "vae", "text_encoder")  # folders of diffusers' layout


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser("inspect", help="say what a weight file is, and whether it would load")
    parser.add_argument("file", type=Path, help="a .safetensors file, one shard of several, or a diffusers folder")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    print(inspect(arguments.file))
    return 0


def inspect(path: Path) -> str:
    """Describe a weight file, or a folder of SVD or CogVideoX in diffusers' layout, in a few lines.

    Raises:
        CheckpointError: nothing can be said, because the file is missing, incomplete or not safetensors.
    """
    if (path / "unet").is_dir():
        parts = [
            _describe(open_weights(part)) for part in sorted(path.iterdir()) if part.is_dir() and _has_weights(part)
        ]
        return "\n".join(
            [*parts, f"{path.name}: SVD in diffusers' layout", _row("loads", _verdict(path, svd.CHECKPOINT))]
        )
    if (path / "transformer").is_dir():
        return "\n".join(_inspect_part(path / part) for part in _COGVIDEOX if (path / part).is_dir())
    return _inspect_part(path)


def _inspect_part(path: Path) -> str:
    file = open_weights(path)
    found = identify(file.shapes)
    return "\n".join([_describe(file), _row("loads", _verdict(path, found.kind, file)), _row("use", found.where)])


def _has_weights(folder: Path) -> bool:
    return any(".safetensors" in path.name for path in folder.iterdir())


def _row(label: str, text: str) -> str:
    return f"  {label:<11} {text}"


def _describe(file: WeightFile) -> str:
    found = identify(file.shapes)
    numbers = sum(math.prod(shape) for shape in file.shapes.values())
    formats = sorted({str(dtype).removeprefix("torch.") for dtype in file.dtypes.values()})
    rows = [
        f"{file.name}: {found.what}",
        _row("tensors", f"{len(file):,}"),
        _row("parameters", f"{numbers / 1e6:,.2f} million"),
        _row("format", ", ".join(formats)),
        _row("size", f"{file.num_bytes / 1e9:,.3f} GB"),
        _row("values", _values(file)),
    ]
    if widths := _widths(found, file.shapes):
        rows.append(_row("widths", ", ".join(map(str, widths))))
    if frames := _table_lengths(file.shapes):
        rows.append(_row("frames", " or ".join(map(str, frames))))
    return "\n".join(rows)


def _values(file: WeightFile) -> str:
    """Whether all are numbers; every one is read for that, at about the speed of the disk."""
    broken = {name: describe_nonfinite(weight) for name in file if not is_finite(weight := file[name])}
    if not broken:
        return "all are numbers"
    name, what = next(iter(broken.items()))
    return f"{len(broken)} of {len(file)} tensors hold what is no number (first: {name}, {what}); download it again"


def _widths(found: FileKind, shapes: dict[str, Shape]) -> list[int]:
    """Channels of the UNet's temporal blocks, each width once."""
    if found.kind not in (svd.CHECKPOINT, svd.UNET, svd.EXTENSION):
        return []
    return sorted({shape[0] for name, shape in shapes.items() if name.endswith(".norm_in.weight") and shape})


def _table_lengths(shapes: dict[str, Shape]) -> list[int]:
    tables = (".positional_embedding.embeddings", ".extension.positions.weight")
    return sorted({shape[0] for name, shape in shapes.items() if name.endswith(tables) and shape})


def _verdict(path: Path, kind: Kind, file: WeightFile | None = None) -> str:
    try:
        if kind is svd.CHECKPOINT:
            return _load_svd(path)
        if kind is svd.EXTENSION and file:
            return _load_extension(path, file.shapes)
        if kind in (cogvideox.TRANSFORMER, cogvideox.IMAGE_TO_VIDEO, cogvideox.VAE, cogvideox.TEXT_ENCODER):
            return _load_cogvideox(path, kind)
        if kind is cogvideox.LORA:
            return f"yes, over a transformer that has its {len(read_lora(path).pairs)} weights"
    except CheckpointError as error:
        return f"no: {error}"
    return "no"


def _load_svd(path: Path) -> str:
    weights = read_svd(path)
    unet, vae, clip = map(_shapes, (weights.unet, weights.vae, weights.image_encoder))
    empty = partial(_empty, path.name)
    assign_weights(empty(lambda: SVDUNet(UNetConfig.from_shapes(unet))), weights.unet, path.name)
    quantised = "quant_conv.weight" in vae
    assign_weights(empty(lambda: VAE(VAEConfig.from_shapes(vae), quantised)), weights.vae, path.name)
    assign_weights(empty(lambda: build_clip(ImageEncoderConfig.from_shapes(clip))), weights.image_encoder, path.name)
    return "yes" if weights.extension_frames is None else f"yes, extended to {weights.extension_frames} frames"


def _load_extension(path: Path, shapes: dict[str, Shape]) -> str:
    """Compare an extension with the UNet it would fit: SVD's layout in the widths of its own norms."""
    norms = {name: shape[0] for name, shape in shapes.items() if name.endswith(".norm_in.weight") and shape}
    contexts = [shape[1] for name, shape in shapes.items() if name.endswith(".attn2.to_k.weight") and len(shape) == 2]
    widths = tuple(norms.get(f"blocks.{block}.norm_in.weight", 0) for block in (7, 29, 51, 83))
    if not all(widths) or not contexts:
        return "no: whole blocks are missing; download it again"
    config = UNetConfig(widths=widths, context_dim=contexts[0])
    read_extension(path, _shapes(_empty(path.name, lambda: SVDUNet(config)).state_dict()))
    return f"yes, over an SVD checkpoint of widths {', '.join(map(str, widths))}"


def _load_cogvideox(path: Path, kind: Kind) -> str:
    if kind is cogvideox.VAE:
        build_vae(read_vae(path))
    elif kind is cogvideox.TEXT_ENCODER:
        build_text_encoder(read_text_encoder(path))
    else:
        build_transformer(read_transformer(path))
    return "yes"


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, Shape]:
    return {name: tuple(weight.shape) for name, weight in weights.items()}


def _empty(source: str, build: Callable[[], nn.Module]) -> nn.Module:
    with sized_by(source), torch.device("meta"):
        return build()
