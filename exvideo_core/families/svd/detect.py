"""Files of Stable Video Diffusion, its parts and ExVideo's extension, and the image models they are confused with."""

from __future__ import annotations

from ...weights.detect import count, match
from ...weights.kind import FileKind, Kind, Shapes

CHECKPOINT = Kind("SVD", "choose it as the SVD checkpoint")
UNET = Kind(
    "SVD UNet",
    "it has no autoencoder and no image encoder: choose a complete checkpoint such as svd_xt.safetensors, or the "
    "diffusers folder that contains unet, vae and image_encoder",
)
VAE = Kind(
    "SVD VAE", "it is one part of SVD: choose a complete checkpoint such as svd_xt.safetensors, or the folder above it"
)
IMAGE_ENCODER = Kind(
    "CLIP image encoder", "SVD's own is part of svd_xt.safetensors, or of the image_encoder folder in diffusers' layout"
)
EXTENSION = Kind("ExVideo extension", "choose it as the extension, beside an SVD checkpoint such as svd_xt.safetensors")
IMAGE_MODEL = Kind("image model", "it makes single pictures: choose a video checkpoint such as svd_xt.safetensors")
KINDS = (CHECKPOINT, UNET, VAE, IMAGE_ENCODER, EXTENSION, IMAGE_MODEL)


def _extension(shapes: Shapes) -> FileKind | None:
    parts = r"positional_(conv|embedding|embedding_proj)\.|act_fn_(in|out)\.|ff_(in|out)\.|norm_(in|out)\."
    if not match(shapes, rf"blocks\.\d+\.({parts})"):
        return None
    if match(shapes, r"blocks\.\d+\.norm1\.linear\."):  # a transformer in ComfyUI's naming, which has `ff_out` too
        return None
    tables = {shape[0] for name, shape in shapes.items() if name.endswith(".positional_embedding.embeddings") and shape}
    frames = f" for {' or '.join(map(str, sorted(tables)))} frames" if tables else ""
    is_whole = count(shapes, r"blocks\.(\d+)\.") == 16 and len(shapes) == 528
    part = "" if is_whole else f", incomplete ({len(shapes)} of 528 tensors)"
    return FileKind(EXTENSION, f"an ExVideo extension of SVD{frames}{part}")


# the sgm and ldm code bases' naming


def _checkpoint(shapes: Shapes) -> FileKind | None:
    prefix = r"(model\.diffusion_model\.|diffusion_model\.)?"
    if not match(shapes, prefix + r"(input|output|middle)_block(s\.\d+)?\.[012]\.time_(stack|mixer)\."):
        return None
    table = next((shape for name, shape in shapes.items() if name.endswith(".extension.positions.weight")), None)
    extension = f" with ExVideo's extension for {table[0]} frames" if table else ""
    if match(shapes, r"first_stage_model\.|conditioner\."):
        return FileKind(CHECKPOINT, f"an SVD checkpoint{extension}", "sgm")
    return FileKind(UNET, f"the UNet of SVD alone{extension}", "sgm")


def _image_model(shapes: Shapes) -> FileKind | None:
    if not match(shapes, r"(model\.diffusion_model\.)?input_blocks\.\d+\.\d+\."):
        return None
    name = "Stable Diffusion XL" if match(shapes, r"(model\.diffusion_model\.)?label_emb\.") else "Stable Diffusion"
    return FileKind(IMAGE_MODEL, f"a {name} checkpoint, which makes single pictures", "sgm")


# diffusers', transformers' and open_clip's naming, and sgm's parts


def _parts(shapes: Shapes) -> FileKind | None:
    if match(
        shapes, r"(down_blocks\.\d+|mid_block|up_blocks\.\d+)\.(resnets|attentions)\.\d+\.(spatial_res|temporal_)"
    ):
        return FileKind(UNET, "the UNet of SVD in diffusers' naming", "diffusers")
    if match(shapes, r"decoder\.(time_conv_out\.|(mid_block|up_blocks\.\d+)\.resnets\.\d+\.(spatial|temporal)_res)"):
        return FileKind(VAE, "the autoencoder of SVD in diffusers' naming", "diffusers")
    if match(shapes, r"(first_stage_model\.)?decoder\.(mid\.block_\d|up\.\d+\.block\.\d+)\.(time_stack|mix_factor)"):
        return FileKind(VAE, "the autoencoder of SVD", "sgm")
    return None


def _image_encoder(shapes: Shapes) -> FileKind | None:
    if match(shapes, r"vision_model\.(embeddings|encoder)\."):
        return FileKind(IMAGE_ENCODER, "a CLIP image encoder", "transformers")
    if match(shapes, r"(.+\.)?visual\.transformer\.resblocks\."):
        return FileKind(IMAGE_ENCODER, "a CLIP image encoder in open_clip's naming", "open_clip")
    return None


RULES = (_extension, _checkpoint, _image_model, _parts, _image_encoder)
