"""Reading SVD checkpoints and ExVideo's extension: strict, with the tensors renamed to those of our networks.

Nothing is converted: the tensors stay views of the mapped files, in the files' dtypes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from ...errors import CheckpointError
from ...weights.assign import AGAIN, check_finite, different, misfit, shapes_of
from ...weights.detect import require
from ...weights.kind import Kind
from ...weights.safetensors_files import Shape, WeightFile, open_weights
from . import detect, keys

UNET = "model.diffusion_model."
DECODER = "first_stage_model."
ENCODER = "conditioner.embedders.3.encoder."
IMAGE_ENCODER = "conditioner.embedders.0.open_clip.model.visual."

# Tensors of a checkpoint that SVD does not use: open_clip's text encoder, the decoder of the image autoencoder, and
# the notes ComfyUI 0.30 writes (comfy_extras/nodes_model_merging.py, save_checkpoint).
_UNUSED = re.compile(
    r"conditioner\.embedders\.0\.open_clip\.model\.(?!visual\.)"
    r"|conditioner\.embedders\.3\.encoder\.(decoder|post_quant_conv)\."
    r"|(v_pred|ztsnr|edm_\w+\.\w+)$"
)
_POSITION_IDS = "vision_model.embeddings.position_ids"  # a buffer of older transformers


@dataclass(frozen=True, kw_only=True)
class SVDWeights:
    """Weights of SVD's three networks, in the names of `SVDUNet`, `VAE` and CLIPVisionModelWithProjection."""

    unet: dict[str, Tensor]
    vae: dict[str, Tensor]
    image_encoder: dict[str, Tensor]
    extension_frames: int | None = None  # rows of ExVideo's position table; None is the base model
    sources: tuple[str, ...]  # names of the files, for messages
    notes: Mapping[str, str] = field(default_factory=dict)  # metadata of the checkpoint


def read_svd(checkpoint: Path | WeightFile, extension: Path | WeightFile | None = None) -> SVDWeights:
    """Read a checkpoint file or diffusers folder, and an extension that replaces and adds weights of its UNet."""
    if isinstance(checkpoint, Path) and checkpoint.is_dir():
        base = _read_folder(checkpoint)
    else:
        base = _read_file(open_weights(checkpoint))
    if extension is None:
        check_finite(checkpoint.name, {name: base.unet[name] for name in base.unet if ".extension." in name})
        return replace(base, extension_frames=_table_length(base.unet, checkpoint.name))
    new = read_extension(extension, shapes_of(base.unet))
    frames, sources = _table_length(new, extension.name), (*base.sources, extension.name)
    return replace(base, unet=base.unet | new, extension_frames=frames, sources=sources)


def _read_file(file: WeightFile) -> SVDWeights:
    require(file.name, file.identity, detect.CHECKPOINT, "an SVD checkpoint")
    encoder = ENCODER if any(name.startswith(ENCODER + "encoder.") for name in file) else DECODER
    parts: dict[str, dict[str, Tensor]] = {prefix: {} for prefix in (UNET, ENCODER, DECODER, IMAGE_ENCODER)}
    for name in file:
        prefix = next((prefix for prefix in parts if name.startswith(prefix)), None)
        if _UNUSED.match(name):
            continue
        if prefix is None:
            raise CheckpointError(f"{file.name} contains {name!r}, which is no part of SVD; choose another file.")
        if prefix == DECODER != encoder and not name.startswith(DECODER + "decoder."):
            continue  # a copy of the encoder without quant_conv
        parts[prefix][name.removeprefix(prefix)] = file[name]
    return SVDWeights(
        unet=parts[UNET],
        vae=parts[ENCODER] | parts[DECODER],
        image_encoder=_image_encoder(parts[IMAGE_ENCODER]),
        sources=(file.name,),
        notes=file.notes,
    )


def _image_encoder(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename from open_clip's names; ComfyUI saves transformers' names under the same prefix, which are kept."""
    if any(name.startswith("vision_model.") for name in weights):
        return {name: weight for name, weight in weights.items() if name != _POSITION_IDS}
    return keys.image_encoder_from_open_clip(weights)


def _read_folder(path: Path) -> SVDWeights:
    if missing := [part for part in ("unet", "vae", "image_encoder") if not (path / part).is_dir()]:
        raise CheckpointError(
            f"{path} is not a diffusers folder of SVD: {' and '.join(missing)} missing; choose a file such as "
            f"svd_xt.safetensors, or the folder that contains unet, vae and image_encoder."
        )
    unet = _read_part(path / "unet", detect.UNET, "the UNet of SVD", keys.unet_from_diffusers)
    vae = _read_part(path / "vae", detect.VAE, "the autoencoder of SVD", keys.vae_from_diffusers)
    encoder = _read_part(path / "image_encoder", detect.IMAGE_ENCODER, "a CLIP image encoder")
    return SVDWeights(
        unet=unet,
        vae={name: keys.as_pointwise(name, weight) for name, weight in vae.items()},
        image_encoder=_image_encoder(encoder),
        sources=(path.name,),
    )


def _read_part(
    folder: Path, kind: Kind, what: str, key_map: Callable[[Iterable[str]], dict[str, str]] | None = None
) -> dict[str, Tensor]:
    file = open_weights(folder)
    require(f"{folder.parent.name}/{folder.name}", file.identity, kind, what)
    if key_map is None or file.identity.naming == "sgm":
        return dict(file)
    return {new: file[name] for name, new in key_map(file).items()}


def read_extension(path: Path | WeightFile, base: Mapping[str, Shape]) -> dict[str, Tensor]:
    """Read ExVideo's extension to the UNet's names, and check it against the names and shapes of a UNet."""
    file = open_weights(path)
    require(file.name, file.identity, detect.EXTENSION, "an ExVideo extension of SVD")
    names, unknown = {}, []
    for name in file:
        try:
            names[name] = keys.extension_to_sgm(name)
        except CheckpointError:
            unknown.append(name)
    found = {new: file.shapes[old] for old, new in names.items()}
    frames = next((shape[0] for name, shape in found.items() if name.endswith(".positions.weight") and shape), 0)
    expected = extended_shapes(base, frames)
    missing = [name for name in expected if name not in found]
    unknown += [name for name in found if name not in expected]
    if complaints := misfit(missing, unknown, different(expected, found), lambda name: keys.PUBLISHED.get(name, name)):
        raise CheckpointError(
            f"{file.name} does not fit the SVD checkpoint, which needs {len(expected)} tensors: {complaints}; choose "
            f"the checkpoint the extension was made for, or download it again if it is incomplete."
        )
    check_finite(file.name, file)
    return {new: file[old] for old, new in names.items()}


def extended_shapes(base: Mapping[str, Shape], frames: int) -> dict[str, Shape]:
    """Names and shapes of the tensors of an extension for `frames` frames, from those of a UNet."""
    shapes = {name: shape for name, shape in base.items() if keys.extension_site(name) and ".extension." not in name}
    for site in dict.fromkeys(map(keys.extension_site, list(shapes))):
        channels = base.get(f"{site}.time_stack.0.norm_in.weight", (0,))[0]
        shapes[f"{site}.extension.positions.weight"] = (frames, channels)
        shapes[f"{site}.extension.mix.weight"] = (channels, channels, 3, 3, 3)
        shapes[f"{site}.extension.mix.bias"] = (channels,)
    return shapes


def _table_length(unet: Mapping[str, Tensor], source: str) -> int | None:
    """Length of ExVideo's position tables, which must be equal; None where there are no tables."""
    lengths = {weight.shape[0] for name, weight in unet.items() if name.endswith(".extension.positions.weight")}
    if len(lengths) > 1:
        raise CheckpointError(f"{source} has position tables of different lengths ({sorted(lengths)}); {AGAIN}")
    return next(iter(lengths), None)
