"""Reading the three parts of CogVideoX, strictly, into the names our networks have.

Each is a file, the shards of one, the part's own folder, or diffusers' folder of the whole model. Nothing is
converted: the tensors stay views of the mapped files, in the files' own number formats.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ...errors import CheckpointError
from ...weights.detect import require
from ...weights.kind import Kind
from ...weights.safetensors_files import WeightFile, open_weights
from . import detect
from .keys import transformer_from_comfyui
from .text_encoder import VOCABULARY


@dataclass(frozen=True, kw_only=True)
class PartWeights:
    """Weights of one network, in its own names.

    Attributes:
        source: the file, as messages should call it.
        kind: what it is, where a slot takes several: `detect.IMAGE_TO_VIDEO` is also a transformer.
        naming: whose names the file has: diffusers, comfyui, transformers.
        notes: what the file has beside its tensors.
    """

    weights: dict[str, Tensor]
    source: str
    kind: Kind
    naming: str
    notes: Mapping[str, str] = field(default_factory=dict)


# What files contain and no network uses: the notes ComfyUI 0.30 leaves (comfy_extras/nodes_model_merging.py,
# save_checkpoint; its CLIPSave adds a logit_scale to every text model), and the half of T5 that writes.
_NOTES = re.compile(r"(v_pred|ztsnr)$")
_NOT_ENCODER = re.compile(r"(decoder|lm_head)\.|logit_scale$")
# Factors beside the weights, in ComfyUI's quantised files.
_SCALED = re.compile(r"(.+\.)?(scaled_fp8|scale_weight|scale_input|weight_scale(_2)?|input_scale|comfy_quant)$")

_TEXT = "patch_embed.text_proj.weight"  # in every transformer, after whatever prefix the file has
_TABLES = ("shared.weight", "encoder.embed_tokens.weight")  # one tensor, of which files have either name or both


def read_transformer(path: Path | WeightFile) -> PartWeights:
    """Read a transformer of CogVideoX 1.0 5B's kind: text to video, or image to video.

    Raises:
        CheckpointError: the file is damaged, or is something else: the sentence says what, and where it belongs.
    """
    file, source = _open(
        path, "transformer", (detect.TRANSFORMER, detect.IMAGE_TO_VIDEO), "the transformer of CogVideoX-5B"
    )
    prefix = next(name.removesuffix(_TEXT) for name in file if name.endswith(_TEXT))
    rename = transformer_from_comfyui if file.identity.naming == "comfyui" else str
    weights = {}
    for name in file:
        if _NOTES.match(name):
            continue
        if not name.startswith(prefix):
            raise CheckpointError(
                f"{source} contains {name!r}, which is no part of the transformer; choose a file of that alone."
            )
        weights[rename(name.removeprefix(prefix))] = file[name]
    return _part(file, source, weights)


def read_vae(path: Path | WeightFile) -> PartWeights:
    """Read CogVideoX's autoencoder.

    Raises:
        CheckpointError: the file is damaged, or is something else: the sentence says what, and where it belongs.
    """
    file, source = _open(path, "vae", (detect.VAE,), "a CogVideoX VAE")
    return _part(file, source, dict(file))


def read_text_encoder(path: Path | WeightFile) -> PartWeights:
    """Read the encoder of T5 v1.1; a decoder in the same file is left out.

    Returns:
        weights by the names of transformers' T5EncoderModel, where the table of words has two.

    Raises:
        CheckpointError: the file is damaged, or is something else: the sentence says what, and where it belongs.
    """
    file, source = _open(path, "text_encoder", (detect.TEXT_ENCODER,), "a T5 text encoder")
    weights = {name: file[name] for name in file if not _NOT_ENCODER.match(name)}
    if tables := [weights[name] for name in _TABLES if name in weights]:
        _check_tables(source, tables)
        weights |= dict.fromkeys(_TABLES, tables[0])
    return _part(file, source, weights)


def _part(file: WeightFile, source: str, weights: dict[str, Tensor]) -> PartWeights:
    found = file.identity
    return PartWeights(weights=weights, source=source, kind=found.kind, naming=found.naming, notes=file.notes)


def _check_tables(source: str, tables: list[Tensor]) -> None:
    shapes = [list(table.shape) for table in tables]
    if shapes[0][:1] != [VOCABULARY]:
        raise CheckpointError(
            f"{source} has a table of words of the shape {shapes[0]}; that of CogVideoX's text encoder, T5 v1.1, has "
            f"{VOCABULARY} rows. Choose the text_encoder of THUDM/CogVideoX-5b, or a file like t5xxl_fp16.safetensors."
        )
    # as bytes, because fp8 cannot be compared
    if len(tables) == 2 and not torch.equal(*(table.view(torch.uint8) for table in tables)):
        raise CheckpointError(
            f"{source} has two tables of words that differ ({' and '.join(_TABLES)}); choose another file."
        )


def _open(path: Path | WeightFile, folder: str, kinds: Collection[Kind], slot: str) -> tuple[WeightFile, str]:
    """The file or folder at `path`, or `folder` within it; and what messages call it."""
    source = path.name
    if isinstance(path, Path) and (path / folder).is_dir():
        source, path = f"{path.name}/{folder}", path / folder
    file = open_weights(path)
    require(source, file.identity, kinds, slot)
    if scaled := next(filter(_SCALED.match, file), None):
        raise CheckpointError(
            f"{source} is quantised, with factors beside its weights ({scaled}), which this project does not read; "
            f"get the bf16, fp16 or plain fp8 version."
        )
    return file, source
