"""`exvideo inspect` for files of Stable Video Diffusion."""

from __future__ import annotations

from pathlib import Path

import torch

from ...family import Inspection
from ...weights.assign import shapes_of, sized_by
from ...weights.kind import Kind
from ...weights.safetensors_files import WeightFile
from . import detect
from .checkpoint import read_extension, read_svd
from .config import UNetConfig
from .pipeline import build_svd
from .unet import SVDUNet

_TABLES = (".positional_embedding.embeddings", ".extension.positions.weight")


def facts(file: WeightFile) -> dict[str, str]:
    """Channels of the UNet's temporal blocks, each width once, and the lengths of ExVideo's position tables."""
    widths = {shape[0] for name, shape in file.shapes.items() if name.endswith(".norm_in.weight") and shape}
    frames = {shape[0] for name, shape in file.shapes.items() if name.endswith(_TABLES) and shape}
    rows = {}
    if widths and file.identity.kind in (detect.CHECKPOINT, detect.UNET, detect.EXTENSION):
        rows["widths"] = ", ".join(map(str, sorted(widths)))
    if frames:
        rows["frames"] = " or ".join(map(str, sorted(frames)))
    return rows


def load(source: Path | WeightFile, kind: Kind) -> str | None:
    """Load a checkpoint, or check an extension; parts of a checkpoint are not loaded by themselves."""
    if kind is detect.CHECKPOINT:
        weights = read_svd(source)
        build_svd(weights)
        return "yes" if weights.extension_frames is None else f"yes, extended to {weights.extension_frames} frames"
    return _check_extension(source) if kind is detect.EXTENSION and isinstance(source, WeightFile) else None


def _check_extension(file: WeightFile) -> str:
    """Compare an extension with the UNet it would fit: SVD's layout in the widths of its own norms."""
    shapes = file.shapes
    norms = {name: shape[0] for name, shape in shapes.items() if name.endswith(".norm_in.weight") and shape}
    contexts = [shape[1] for name, shape in shapes.items() if name.endswith(".attn2.to_k.weight") and len(shape) == 2]
    widths = tuple(norms.get(f"blocks.{block}.norm_in.weight", 0) for block in (7, 29, 51, 83))
    if not all(widths) or not contexts:
        return "no: whole blocks are missing; download it again"
    with sized_by(file.name), torch.device("meta"):
        unet = SVDUNet(UNetConfig(widths=widths, context_dim=contexts[0]))
    read_extension(file, shapes_of(unet.state_dict()))
    return f"yes, over an SVD checkpoint of widths {', '.join(map(str, widths))}"


INSPECTION = Inspection(folders=("unet", "vae", "image_encoder"), whole=detect.CHECKPOINT, load=load, facts=facts)
