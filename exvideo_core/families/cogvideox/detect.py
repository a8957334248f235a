"""Files of CogVideoX: transformers, VAE, text encoder, and LoRAs."""

from __future__ import annotations

import re

from ...weights.detect import count, match
from ...weights.kind import FileKind, Kind, Shapes

TRANSFORMER = Kind("CogVideoX", "choose it as the CogVideoX transformer")
TRANSFORMER_2B = Kind("CogVideoX-2B", "ExVideo extends CogVideoX-5B: choose the transformer of THUDM/CogVideoX-5b")
IMAGE_TO_VIDEO = Kind(
    "CogVideoX image to video", "ExVideo's LoRA is for text to video: choose the transformer of THUDM/CogVideoX-5b"
)
TRANSFORMER_1_5 = Kind(
    "CogVideoX 1.5", "ExVideo's LoRA is for CogVideoX 1.0: choose the transformer of THUDM/CogVideoX-5b"
)
LORA = Kind("CogVideoX LoRA", "apply it as the LoRA of a CogVideoX-5B text-to-video model", is_lora=True)
VAE = Kind("CogVideoX VAE", "choose it as the CogVideoX VAE")
TEXT_ENCODER = Kind("T5", "choose it as the CogVideoX text encoder")
KINDS = (TRANSFORMER, TRANSFORMER_2B, IMAGE_TO_VIDEO, TRANSFORMER_1_5, LORA, VAE, TEXT_ENCODER)

# CogVideoX's blocks in every spelling that trainers write; attn2 and img_attn are other models'
_LORA_LAYERS = (
    r"((base_model|model|diffusion_model|transformer|pipe|dit)\.)*(lora_(unet|transformer)_)?(transformer_)?"
    r"blocks[._](\d+)[._](attn1|attn_out|[qkv]|ff|norm1|norm2|norm_q|norm_k)[._]"
)
_OTHER_LAYERS = r".*(attn2|cross_attn|img_attn|adaln_single|lora_unet_(down|up|mid|input|output|middle)_)"


def _lora(shapes: Shapes) -> FileKind | None:
    if not match(shapes, _LORA_LAYERS) or match(shapes, _OTHER_LAYERS):
        return None
    factors = [shape for name, shape in shapes.items() if re.search(r"\.lora_(A|down)\.", name) and len(shape) == 2]
    ranks = sorted({shape[0] for shape in factors})
    of = f" of rank {' and '.join(map(str, ranks))}" if ranks else ""
    return FileKind(LORA, f"a CogVideoX LoRA{of}")


def _transformer(shapes: Shapes) -> FileKind | None:
    found = match(
        shapes,
        r"(model\.diffusion_model\.|diffusion_model\.|transformer\.)?(transformer_)?blocks\.\d+\.norm1\.linear\.",
    )
    if not found or f"{found[1] or ''}patch_embed.text_proj.weight" not in shapes:
        return None
    prefix, naming = found[1] or "", "diffusers" if found[2] else "comfyui"
    layers = count(shapes, rf"{re.escape(prefix)}(?:transformer_)?blocks\.(\d+)\.")
    patches = shapes.get(f"{prefix}patch_embed.proj.weight") or (0, 0, 0, 0)
    kind, what = _variant(shapes, prefix, patches, layers)
    other = "" if naming == "diffusers" else " in ComfyUI's naming"
    return FileKind(kind, f"{what}{other} (width {patches[0]}, {layers} layers)", naming)


def _variant(shapes: Shapes, prefix: str, patches: tuple[int, ...], layers: int) -> tuple[Kind, str]:
    if len(patches) != 4:  # 1.5 also groups two frames, in a linear layer
        task = "image-to-video" if match(shapes, rf"{re.escape(prefix)}ofs_embedding") else "text-to-video"
        return TRANSFORMER_1_5, f"a CogVideoX 1.5 {task} transformer"
    out_channels = (shapes.get(f"{prefix}proj_out.weight") or (0,))[0] // (patches[2] * patches[3] or 1)
    if patches[1] > out_channels > 0:  # what is not denoised is given: a picture, a mask
        return IMAGE_TO_VIDEO, "a CogVideoX image-to-video transformer"
    if (patches[0], layers) == (1920, 30):  # positions and noise schedule differ, but no tensor shows it
        return TRANSFORMER_2B, "a CogVideoX-2B text-to-video transformer"
    return TRANSFORMER, "a CogVideoX text-to-video transformer"


def _vae(shapes: Shapes) -> FileKind | None:
    if not match(shapes, r"decoder\.(mid_block|up_blocks\.\d+)\.resnets\.\d+\.norm\d\.conv_[by]\.conv\."):
        return None
    return FileKind(VAE, "a CogVideoX VAE", "diffusers")


def _text_encoder(shapes: Shapes) -> FileKind | None:
    if not match(shapes, r"encoder\.block\.\d+\.layer\.0\.SelfAttention\."):
        return None
    layers = count(shapes, r"encoder\.block\.(\d+)\.")
    return FileKind(TEXT_ENCODER, f"a T5 text encoder of {layers} layers", "transformers")


RULES = (_lora, _transformer, _vae, _text_encoder)
