"""Reading CogVideoX's three networks: strict, with the tensors renamed to those of our networks.

Each is a file, its shards, the network's own folder, or the whole model's folder in diffusers' layout. Nothing is
converted: the tensors stay views of the mapped files, in the files' dtypes.
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
    """Weights of one network, by its parameter names."""

    weights: dict[str, Tensor]
    source: str  # name of the file, for messages
    notes: Mapping[str, str] = field(default_factory=dict)  # metadata of the file


# Tensors of files that no network uses: the notes ComfyUI 0.30 writes (comfy_extras/nodes_model_merging.py,
# save_checkpoint; its CLIPSave adds a logit_scale to every text model), and T5's decoder.
_NOTES = re.compile(r"(v_pred|ztsnr)$")
_NOT_ENCODER = re.compile(r"(decoder|lm_head)\.|logit_scale$")
# Scales beside the weights of ComfyUI's quantised files.
_SCALED = re.compile(r"(.+\.)?(scaled_fp8|scale_weight|scale_input|weight_scale(_2)?|input_scale|comfy_quant)$")

_TEXT = "patch_embed.text_proj.weight"  # in every transformer, after the file's prefix
_EMBEDDINGS = ("shared.weight", "encoder.embed_tokens.weight")  # T5's token embeddings under either name or both


def read_transformer(path: Path | WeightFile) -> PartWeights:
    """Read a transformer of CogVideoX-5B 1.0, text to video or image to video.

    CheckpointError if the file is damaged, or another kind of file: says which, and where it belongs.
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
    return PartWeights(weights=weights, source=source, notes=file.notes)


def read_vae(path: Path | WeightFile) -> PartWeights:
    """Read CogVideoX's autoencoder; raises CheckpointError as `read_transformer` does."""
    file, source = _open(path, "vae", (detect.VAE,), "a CogVideoX VAE")
    return PartWeights(weights=dict(file), source=source, notes=file.notes)


def read_text_encoder(path: Path | WeightFile) -> PartWeights:
    """Read the encoder of T5 v1.1, without the decoder that some files have; raises as `read_transformer` does.

    The names are those of transformers' T5EncoderModel, in which the token embeddings have two.
    """
    file, source = _open(path, "text_encoder", (detect.TEXT_ENCODER,), "a T5 text encoder")
    weights = {name: file[name] for name in file if not _NOT_ENCODER.match(name)}
    if tables := [weights[name] for name in _EMBEDDINGS if name in weights]:
        _check_embeddings(source, tables)
        weights |= dict.fromkeys(_EMBEDDINGS, tables[0])
    return PartWeights(weights=weights, source=source, notes=file.notes)


def _check_embeddings(source: str, tables: list[Tensor]) -> None:
    shapes = [list(table.shape) for table in tables]
    if shapes[0][:1] != [VOCABULARY]:
        raise CheckpointError(
            f"{source} has token embeddings of shape {shapes[0]}; those of CogVideoX's text encoder, T5 v1.1, have "
            f"{VOCABULARY} rows. Choose the text_encoder of THUDM/CogVideoX-5b, or a file like t5xxl_fp16.safetensors."
        )
    # as bytes, because torch.equal does not take fp8
    if len(tables) == 2 and not torch.equal(*(table.view(torch.uint8) for table in tables)):
        raise CheckpointError(
            f"{source} has two token embeddings that differ ({' and '.join(_EMBEDDINGS)}); choose another file."
        )


def _open(path: Path | WeightFile, folder: str, kinds: Collection[Kind], slot: str) -> tuple[WeightFile, str]:
    """Open the file or folder at `path`, or `folder` within it: the file, and its name for messages."""
    source = path.name
    if isinstance(path, Path) and (path / folder).is_dir():
        source, path = f"{path.name}/{folder}", path / folder
    file = open_weights(path)
    require(source, file.identity, kinds, slot)
    if scaled := next(filter(_SCALED.match, file), None):
        raise CheckpointError(
            f"{source} is quantised, with scales beside its weights ({scaled}), which this project does not read; "
            f"get the bf16, fp16 or plain fp8 version."
        )
    return file, source
