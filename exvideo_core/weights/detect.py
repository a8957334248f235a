"""What a weight file is, from the names and shapes of its tensors: never from its file name."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from ..errors import CheckpointError

Shapes = Mapping[str, tuple[int, ...]]


class Kind(Enum):
    """The files people have in these folders; the value says where such a file belongs."""

    SVD = "choose it as the SVD checkpoint"
    SVD_UNET = (
        "it has no autoencoder and no image encoder: choose a complete checkpoint such as svd_xt.safetensors, or the "
        "diffusers folder that contains unet, vae and image_encoder"
    )
    SVD_VAE = "it is one part of SVD: choose a complete checkpoint such as svd_xt.safetensors, or the folder above it"
    IMAGE_ENCODER = "SVD's own is part of svd_xt.safetensors, or of the image_encoder folder in diffusers' layout"
    EXTENSION = "choose it as the extension, beside an SVD checkpoint such as svd_xt.safetensors"
    COG_T2V = "choose it as the CogVideoX transformer"
    COG_T2V_2B = "ExVideo extends CogVideoX-5B: choose the transformer of THUDM/CogVideoX-5b"
    COG_I2V = "ExVideo's LoRA is for text to video: choose the transformer of THUDM/CogVideoX-5b"
    COG_1_5 = "ExVideo's LoRA is for CogVideoX 1.0: choose the transformer of THUDM/CogVideoX-5b"
    COG_LORA = "apply it as the LoRA of a CogVideoX-5B text-to-video model"
    COG_VAE = "choose it as the CogVideoX VAE"
    T5 = "choose it as the CogVideoX text encoder"
    OTHER_LORA = "it is for another model: ExVideo's LoRA is ExVideo-CogVideoX-LoRA-129f-v1.safetensors"
    IMAGE_MODEL = "it makes single pictures: choose a video checkpoint such as svd_xt.safetensors"
    UNKNOWN = "no part of this project reads it"


@dataclass(frozen=True)
class FileKind:
    """What a file is.

    Attributes:
        kind: what to compare.
        what: the same for people, with an article: "an SVD checkpoint with ExVideo's extension for 128 frames".
        naming: whose weight names it uses, where there is a choice: sgm, diffusers, transformers, open_clip, comfyui.
    """

    kind: Kind
    what: str
    naming: str = ""

    @property
    def where(self) -> str:
        """What to do with such a file."""
        return self.kind.value


def identify(shapes: Shapes) -> FileKind:
    """Say what the file with these tensors is; incomplete files are recognised as what they would be."""
    for rule in _RULES:
        if found := rule(shapes):
            return found
    first = f", the first of them {min(shapes)}" if shapes else ""
    return FileKind(Kind.UNKNOWN, f"an unknown file ({len(shapes)} tensors{first})")


def require(source: str, found: FileKind, wanted: Kind | Collection[Kind], slot: str) -> None:
    """Refuse a file in the wrong slot.

    Args:
        source: the file, as the message should call it.
        found: what it is.
        wanted: what the slot takes.
        slot: the slot, with an article: "an SVD checkpoint".

    Raises:
        CheckpointError: says what the file is and where it belongs.
    """
    wanted = {wanted} if isinstance(wanted, Kind) else wanted
    if found.kind not in wanted:
        raise CheckpointError(f"{source} is {found.what}, not {slot}; {found.where}.")


def _match(names: Iterable[str], pattern: str) -> re.Match[str] | None:
    """The first name that the pattern fits from its start."""
    compiled = re.compile(pattern)
    return next((match for name in names if (match := compiled.match(name))), None)


def _count(names: Iterable[str], pattern: str) -> int:
    """How many different first groups the pattern finds: blocks, layers."""
    compiled = re.compile(pattern)
    return len({match[1] for name in names if (match := compiled.match(name))})


# LoRA: before everything else, because its names contain those of the model it is for

_LORA = r".+\.(lora_[AB]|lora_up|lora_down|dora_scale|lokr_w\d|hada_w\d_[ab])(\.|$)"
# CogVideoX's blocks in every spelling that trainers write; attn2 and img_attn are other models'
_COG_LORA = (
    r"((base_model|model|diffusion_model|transformer|pipe|dit)\.)*(lora_(unet|transformer)_)?(transformer_)?"
    r"blocks[._](\d+)[._](attn1|attn_out|[qkv]|ff|norm1|norm2|norm_q|norm_k)[._]"
)
_NOT_COG_LORA = r".*(attn2|cross_attn|img_attn|adaln_single|lora_unet_(down|up|mid|input|output|middle)_)"


def _lora(shapes: Shapes) -> FileKind | None:
    if not _match(shapes, _LORA):
        return None
    if not _match(shapes, _COG_LORA) or _match(shapes, _NOT_COG_LORA):
        return FileKind(Kind.OTHER_LORA, "a LoRA for another model")
    factors = [shape for name, shape in shapes.items() if re.search(r"\.lora_(A|down)\.", name) and len(shape) == 2]
    ranks = sorted({shape[0] for shape in factors})
    of = f" of rank {' and '.join(map(str, ranks))}" if ranks else ""
    return FileKind(Kind.COG_LORA, f"a CogVideoX LoRA{of}")


def _extension(shapes: Shapes) -> FileKind | None:
    parts = r"positional_(conv|embedding|embedding_proj)\.|act_fn_(in|out)\.|ff_(in|out)\.|norm_(in|out)\."
    if not _match(shapes, rf"blocks\.\d+\.({parts})"):
        return None
    tables = {shape[0] for name, shape in shapes.items() if name.endswith(".positional_embedding.embeddings") and shape}
    frames = f" for {' or '.join(map(str, sorted(tables)))} frames" if tables else ""
    blocks = _count(shapes, r"blocks\.(\d+)\.")
    part = "" if blocks == 16 and len(shapes) == 528 else f", incomplete ({len(shapes)} of 528 tensors)"
    return FileKind(Kind.EXTENSION, f"an ExVideo extension of SVD{frames}{part}")


# networks in the sgm and ldm code bases' naming


def _svd(shapes: Shapes) -> FileKind | None:
    prefix = r"(model\.diffusion_model\.|diffusion_model\.)?"
    if not _match(shapes, prefix + r"(input|output|middle)_block(s\.\d+)?\.[012]\.time_(stack|mixer)\."):
        return None
    table = next((shape for name, shape in shapes.items() if name.endswith(".extension.positions.weight")), None)
    extension = f" with ExVideo's extension for {table[0]} frames" if table else ""
    if _match(shapes, r"first_stage_model\.|conditioner\."):
        return FileKind(Kind.SVD, f"an SVD checkpoint{extension}", "sgm")
    return FileKind(Kind.SVD_UNET, f"the UNet of SVD alone{extension}", "sgm")


def _image_model(shapes: Shapes) -> FileKind | None:
    if not _match(shapes, r"(model\.diffusion_model\.)?input_blocks\.\d+\.\d+\."):
        return None
    name = "Stable Diffusion XL" if _match(shapes, r"(model\.diffusion_model\.)?label_emb\.") else "Stable Diffusion"
    return FileKind(Kind.IMAGE_MODEL, f"a {name} checkpoint, which makes single pictures", "sgm")


# networks in diffusers' and transformers' naming


def _svd_parts(shapes: Shapes) -> FileKind | None:
    if _match(
        shapes, r"(down_blocks\.\d+|mid_block|up_blocks\.\d+)\.(resnets|attentions)\.\d+\.(spatial_res|temporal_)"
    ):
        return FileKind(Kind.SVD_UNET, "the UNet of SVD in diffusers' naming", "diffusers")
    if _match(shapes, r"decoder\.(time_conv_out\.|(mid_block|up_blocks\.\d+)\.resnets\.\d+\.(spatial|temporal)_res)"):
        return FileKind(Kind.SVD_VAE, "the autoencoder of SVD in diffusers' naming", "diffusers")
    if _match(shapes, r"(first_stage_model\.)?decoder\.(mid\.block_\d|up\.\d+\.block\.\d+)\.(time_stack|mix_factor)"):
        return FileKind(Kind.SVD_VAE, "the autoencoder of SVD", "sgm")
    return None


def _image_encoder(shapes: Shapes) -> FileKind | None:
    if _match(shapes, r"vision_model\.(embeddings|encoder)\."):
        return FileKind(Kind.IMAGE_ENCODER, "a CLIP image encoder", "transformers")
    if _match(shapes, r"(.+\.)?visual\.transformer\.resblocks\."):
        return FileKind(Kind.IMAGE_ENCODER, "a CLIP image encoder in open_clip's naming", "open_clip")
    return None


def _text_encoder(shapes: Shapes) -> FileKind | None:
    if not _match(shapes, r"encoder\.block\.\d+\.layer\.0\.SelfAttention\."):
        return None
    layers = _count(shapes, r"encoder\.block\.(\d+)\.")
    return FileKind(Kind.T5, f"a T5 text encoder of {layers} layers", "transformers")


def _cog_vae(shapes: Shapes) -> FileKind | None:
    if not _match(shapes, r"decoder\.(mid_block|up_blocks\.\d+)\.resnets\.\d+\.norm\d\.conv_[by]\.conv\."):
        return None
    return FileKind(Kind.COG_VAE, "a CogVideoX VAE", "diffusers")


def _cog(shapes: Shapes) -> FileKind | None:
    found = _match(
        shapes,
        r"(model\.diffusion_model\.|diffusion_model\.|transformer\.)?(transformer_)?blocks\.\d+\.norm1\.linear\.",
    )
    if not found or f"{found[1] or ''}patch_embed.text_proj.weight" not in shapes:
        return None
    prefix, naming = found[1] or "", "diffusers" if found[2] else "comfyui"
    layers = _count(shapes, rf"{re.escape(prefix)}(?:transformer_)?blocks\.(\d+)\.")
    patches = shapes.get(f"{prefix}patch_embed.proj.weight") or (0, 0, 0, 0)
    kind, what = _cog_variant(shapes, prefix, patches, layers)
    other = "" if naming == "diffusers" else " in ComfyUI's naming"
    return FileKind(kind, f"{what}{other} (width {patches[0]}, {layers} layers)", naming)


def _cog_variant(shapes: Shapes, prefix: str, patches: tuple[int, ...], layers: int) -> tuple[Kind, str]:
    if len(patches) != 4:  # 1.5 also groups two frames, in a linear layer
        task = "image-to-video" if _match(shapes, rf"{re.escape(prefix)}ofs_embedding") else "text-to-video"
        return Kind.COG_1_5, f"a CogVideoX 1.5 {task} transformer"
    out_channels = (shapes.get(f"{prefix}proj_out.weight") or (0,))[0] // (patches[2] * patches[3] or 1)
    if patches[1] > out_channels > 0:  # what is not denoised is given: a picture, a mask
        return Kind.COG_I2V, "a CogVideoX image-to-video transformer"
    if (patches[0], layers) == (1920, 30):  # positions and noise schedule differ, the tensors do not tell
        return Kind.COG_T2V_2B, "a CogVideoX-2B text-to-video transformer"
    return Kind.COG_T2V, "a CogVideoX text-to-video transformer"


_RULES: tuple[Callable[[Shapes], FileKind | None], ...] = (
    _lora,
    _cog,  # before the extension, for ComfyUI's name `blocks.0.ff_out` is one of the extension's too
    _extension,
    _svd,
    _image_model,
    _svd_parts,
    _cog_vae,
    _text_encoder,
    _image_encoder,
)
