"""Writing ExVideo's extension and whole SVD checkpoints in the published layouts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ...errors import CheckpointError
from ...weights.assign import shapes_of
from ...weights.write import write_weights
from .checkpoint import DECODER, ENCODER, IMAGE_ENCODER, UNET, extended_shapes
from .keys import EXTENSION_SITES, extension_site, image_encoder_to_open_clip, sgm_to_extension


def save_extension(path: Path, unet: Mapping[str, Tensor]) -> None:
    """Write the extension's tensors of an extended UNet's state dict, named as in ExVideo-SVD-128f-v1."""
    own = {name: weight for name, weight in unet.items() if extension_site(name)}
    if sites := {extension_site(name) for name in own} ^ EXTENSION_SITES.keys():
        raise CheckpointError(
            f"{path.name} was not written: the published format numbers the {len(EXTENSION_SITES)} temporal blocks of "
            f"SVD's own layout, and this UNet differs in {len(sites)} of them."
        )
    expected = extended_shapes(shapes_of(own), frames=0)
    if missing := [name for name in expected if name not in own]:
        raise CheckpointError(
            f"{path.name} was not written: this UNet has no complete extension ({len(missing)} tensors missing, "
            f"first: {missing[0]})."
        )
    write_weights(path, {sgm_to_extension(name): weight for name, weight in own.items()})


def save_svd(
    path: Path, unet: Mapping[str, Tensor], vae: Mapping[str, Tensor], image_encoder: Mapping[str, Tensor]
) -> None:
    """Write one file in the layout of svd_xt.safetensors, including the extension if the UNet has one.

    The encoder is stored twice, as published: in `conditioner.embedders.3` with its `quant_conv`, and without it in
    `first_stage_model`, where hosts expect no `quant_conv`: there it is merged into the last convolution. An encoder
    without a `quant_conv` is stored once, in `first_stage_model`. The weights are named as in `SVDUNet`, `VAE` and
    transformers' CLIPVisionModelWithProjection. `path` is replaced only once the whole file is written.
    """
    write_weights(path, published_layout(unet, vae, image_encoder))


def published_layout(
    unet: Mapping[str, Tensor], vae: Mapping[str, Tensor], image_encoder: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Tensors of `save_svd` by their names in the file; any of the three networks may be empty."""
    weights = {f"{UNET}{name}": weight for name, weight in unet.items()}
    weights |= {f"{IMAGE_ENCODER}{name}": weight for name, weight in image_encoder_to_open_clip(image_encoder).items()}
    if "quant_conv.weight" in vae:
        weights |= {f"{ENCODER}{name}": weight for name, weight in vae.items() if not name.startswith("decoder.")}
        vae = _merge_quant_conv(vae)
    return weights | {f"{DECODER}{name}": weight for name, weight in vae.items()}


def _merge_quant_conv(vae: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Merge the 1x1 convolution `quant_conv` into the encoder's last convolution."""
    mix = vae["quant_conv.weight"][:, :, 0, 0].float()
    weight, bias = vae["encoder.conv_out.weight"], vae["encoder.conv_out.bias"]
    # cloned, because safetensors refuses two names for the same memory
    result = {name: tensor if name.startswith("decoder.") else tensor.clone() for name, tensor in vae.items()}
    result["encoder.conv_out.weight"] = torch.einsum("om,mchw->ochw", mix, weight.float()).to(weight.dtype)
    result["encoder.conv_out.bias"] = (mix @ bias.float() + vae["quant_conv.bias"].float()).to(bias.dtype)
    return {name: tensor for name, tensor in result.items() if not name.startswith("quant_conv.")}
