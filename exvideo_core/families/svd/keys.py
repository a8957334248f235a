"""Renaming rules from ExVideo's, diffusers' and open_clip's weight names to the sgm names of our networks.

A name that no rule matches raises an error. The UNet's sgm names are without `model.diffusion_model.`; those of the
autoencoder are `encoder.*`, `quant_conv.*` and `decoder.*`.
Letters: C channels, D width of the image encoder, E width of the image embedding.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from ...weights.names import rename, unknown_name, weights_of

# A pattern at the start of a name, and what replaces it.
_Rule = tuple[str, str | Callable[[re.Match[str]], str]]


# ExVideo's extension of SVD

# DiffSynth numbers all sub-blocks of the UNet in one list; these 16 are the temporal attentions in forward order: six
# on the down path, one in the middle, nine on the up path.
_BLOCKS = (7, 17, 29, 39, 51, 61, 83, 113, 123, 133, 144, 154, 164, 175, 185, 195)
_DOWN = [f"input_blocks.{i}.1" for i in (1, 2, 4, 5, 7, 8)]
_UP = [f"output_blocks.{i}.1" for i in range(3, 12)]
EXTENSION_SITES = dict(zip([*_DOWN, "middle_block.1", *_UP], _BLOCKS, strict=True))

_LAYERS = {
    "positional_conv": "extension.mix",
    **{f"positional_embedding_proj.{i}": f"time_pos_embed.{i}" for i in (0, 2)},
    "act_fn_in.proj": "time_stack.0.ff_in.net.0.proj",
    "ff_in": "time_stack.0.ff_in.net.2",
    "act_fn_out.proj": "time_stack.0.ff.net.0.proj",
    "ff_out": "time_stack.0.ff.net.2",
    "norm_out": "time_stack.0.norm3",
    **{f"attn{i}.to_out": f"time_stack.0.attn{i}.to_out.0" for i in (1, 2)},
    **{f"attn{i}.to_{x}": f"time_stack.0.attn{i}.to_{x}" for i in (1, 2) for x in "qkv"},
    **{norm: f"time_stack.0.{norm}" for norm in ("norm_in", "norm1", "norm2")},
}
_TO_SGM = {
    f"blocks.{block}.{old}": f"{site}.{new}"
    for site, block in EXTENSION_SITES.items()
    for old, new in [*weights_of(_LAYERS).items(), ("positional_embedding.embeddings", "extension.positions.weight")]
}
PUBLISHED = {new: old for old, new in _TO_SGM.items()}


def extension_to_sgm(name: str) -> str:
    """Rename a weight of a published extension (`blocks.7.norm_in.weight`) to the UNet's name."""
    return rename(name, _TO_SGM, "an ExVideo extension of SVD")


def sgm_to_extension(name: str) -> str:
    """Rename a weight of the UNet to its name in a published extension; the inverse of `extension_to_sgm`."""
    return rename(name, PUBLISHED, "an ExVideo extension of SVD")


def extension_site(name: str) -> str | None:
    """The transformer (`input_blocks.1.1`) whose extended part has this sgm name; None for other weights."""
    match = re.fullmatch(r"(.+)\.(time_stack\.0|time_pos_embed|extension)\..+", name)
    return match[1] if match else None


# diffusers' UNetSpatioTemporalConditionModel

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_PARTS: tuple[_Rule, ...] = (
    (rf"spatial_res_block\.({'|'.join(_RESNET)})\.", lambda m: f"{_RESNET[m[1]]}."),
    (rf"temporal_res_block\.({'|'.join(_RESNET)})\.", lambda m: f"time_stack.{_RESNET[m[1]]}."),
    (r"temporal_transformer_blocks\.", "time_stack."),
    (r"time_pos_embed\.linear_1\.", "time_pos_embed.0."),
    (r"time_pos_embed\.linear_2\.", "time_pos_embed.2."),
    (r"(?=(time_mixer|transformer_blocks|norm|proj_in|proj_out)\.)", ""),  # equal names
)


def _rewrite(name: str, rules: tuple[_Rule, ...]) -> str | None:
    """Apply the first rule that matches the start of the name."""
    for pattern, new in rules:
        result, count = re.subn(rf"\A(?:{pattern})", new, name, count=1)
        if count:
            return result
    return None


def _highest(names: Iterable[str], pattern: str) -> int:
    return max((int(match[1]) for name in names if (match := re.match(pattern, name))), default=0)


def unet_from_diffusers(names: Iterable[str]) -> dict[str, str]:
    """Map of diffusers' names of a UNet to sgm names; depth and levels with attention are inferred from them."""
    names = list(names)
    size = 2 + _highest(names, r"down_blocks\.\d+\.resnets\.(\d+)\.")  # input blocks of a level
    with_attention = {match[1] for name in names if (match := re.match(r"up_blocks\.(\d+)\.attentions\.", name))}

    def block(match: re.Match[str]) -> str:
        path, first = {"down": ("input_blocks", 1), "up": ("output_blocks", 0)}[match[1]]
        return f"{path}.{int(match[2]) * size + first + int(match[4])}.{int(match[3] == 'attentions')}."

    def upsampler(match: re.Match[str]) -> str:
        return f"output_blocks.{int(match[1]) * size + size - 1}.{2 if match[1] in with_attention else 1}."

    rules: tuple[_Rule, ...] = (
        (r"conv_in\.", "input_blocks.0.0."),
        (r"conv_norm_out\.", "out.0."),
        (r"conv_out\.", "out.2."),
        (r"time_embedding\.linear_1\.", "time_embed.0."),  # diffusers counts linear layers, sgm all layers
        (r"time_embedding\.linear_2\.", "time_embed.2."),
        (r"add_embedding\.linear_1\.", "label_emb.0.0."),
        (r"add_embedding\.linear_2\.", "label_emb.0.2."),
        (r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.", block),
        # a level's downsampler is an input block of its own, its upsampler part of the last output block
        (r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.", lambda m: f"input_blocks.{(int(m[1]) + 1) * size}.0.op."),
        (r"up_blocks\.(\d+)\.upsamplers\.0\.", upsampler),
        (r"mid_block\.resnets\.(\d+)\.", lambda m: f"middle_block.{2 * int(m[1])}."),
        (r"mid_block\.attentions\.0\.", "middle_block.1."),
    )
    return {name: _from_diffusers(name, rules, _UNET_PARTS, "SVD's UNet") for name in names}


def _from_diffusers(name: str, blocks: tuple[_Rule, ...], parts: tuple[_Rule, ...], network: str) -> str:
    match = re.fullmatch(r"(.+?(?:resnets|attentions)\.\d+\.)(.+)", name)
    block, part = (match[1], _rewrite(match[2], parts)) if match else (name, "")
    place = _rewrite(block, blocks)
    if place is None or part is None:
        raise unknown_name(name, f"{network} in diffusers' naming")
    return place + part


# diffusers' AutoencoderKLTemporalDecoder

_VAE_PARTS: tuple[_Rule, ...] = (
    (r"(spatial_res_block\.)?conv_shortcut\.", "nin_shortcut."),
    (r"spatial_res_block\.", ""),
    (rf"temporal_res_block\.({'|'.join(_RESNET)})\.", lambda m: f"time_stack.{_RESNET[m[1]]}."),
    (r"time_mixer\.", ""),
    (r"group_norm\.", "norm."),
    (r"to_([qkv])\.", r"\1."),
    (r"to_out\.0\.", "proj_out."),
    (r"(?=(norm|conv)[12]\.)", ""),
)


def vae_from_diffusers(names: Iterable[str]) -> dict[str, str]:
    """Map of diffusers' names of an autoencoder to sgm names; the number of levels is inferred from them."""
    names = list(names)
    top = _highest(names, r"decoder\.up_blocks\.(\d+)\.")
    rules: tuple[_Rule, ...] = (
        (r"quant_conv\.", "quant_conv."),
        (r"(encoder|decoder)\.(conv_in|conv_out)\.", r"\1.\2."),
        (r"(encoder|decoder)\.conv_norm_out\.", r"\1.norm_out."),
        (r"decoder\.time_conv_out\.", "decoder.conv_out.time_mix_conv."),
        (r"(encoder|decoder)\.mid_block\.resnets\.(\d+)\.", lambda m: f"{m[1]}.mid.block_{int(m[2]) + 1}."),
        (r"(encoder|decoder)\.mid_block\.attentions\.0\.", r"\1.mid.attn_1."),
        (r"encoder\.down_blocks\.(\d+)\.resnets\.(\d+)\.", r"encoder.down.\1.block.\2."),
        (r"encoder\.down_blocks\.(\d+)\.downsamplers\.0\.", r"encoder.down.\1.downsample."),
        # sgm numbers the decoder's levels from the highest resolution
        (r"decoder\.up_blocks\.(\d+)\.resnets\.(\d+)\.", lambda m: f"decoder.up.{top - int(m[1])}.block.{m[2]}."),
        (r"decoder\.up_blocks\.(\d+)\.upsamplers\.0\.", lambda m: f"decoder.up.{top - int(m[1])}.upsample."),
    )
    return {name: _from_diffusers(name, rules, _VAE_PARTS, "SVD's autoencoder") for name in names}


def as_pointwise(name: str, weight: Tensor) -> Tensor:
    """Reshape an attention projection of diffusers' autoencoder, [C, C], to sgm's 1x1 convolution, [C, C, 1, 1]."""
    if re.fullmatch(r".+\.mid\.attn_1\.(q|k|v|proj_out)\.weight", name) and weight.ndim == 2:
        return weight[:, :, None, None]
    return weight


# open_clip's vision tower and transformers' CLIPVisionModelWithProjection

_TO_CLIP = {
    **weights_of(
        {
            "ln_pre": "vision_model.pre_layrnorm",  # sic
            "ln_post": "vision_model.post_layernorm",
            "transformer.resblocks.N.ln_1": "vision_model.encoder.layers.N.layer_norm1",
            "transformer.resblocks.N.ln_2": "vision_model.encoder.layers.N.layer_norm2",
            "transformer.resblocks.N.attn.out_proj": "vision_model.encoder.layers.N.self_attn.out_proj",
            "transformer.resblocks.N.mlp.c_fc": "vision_model.encoder.layers.N.mlp.fc1",
            "transformer.resblocks.N.mlp.c_proj": "vision_model.encoder.layers.N.mlp.fc2",
        }
    ),
    "class_embedding": "vision_model.embeddings.class_embedding",
    "conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "positional_embedding": "vision_model.embeddings.position_embedding.weight",
}
_TO_OPEN_CLIP = {new: old for old, new in _TO_CLIP.items()}


def image_encoder_from_open_clip(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert open_clip's weights (`visual.` removed) to transformers' names and layouts.

    open_clip stacks q, k and v in `in_proj` [3D, D] and stores the projection as [D, E]; transformers has three
    [D, D] and [E, D].
    """
    result: dict[str, Tensor] = {}
    for name, weight in weights.items():
        stacked = re.fullmatch(r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)", name)
        if name == "proj" and weight.ndim == 2:
            result["visual_projection.weight"] = weight.t().contiguous()
        elif stacked and weight.ndim and weight.shape[0] % 3 == 0:
            for letter, part in zip("qkv", weight.chunk(3), strict=True):
                result[f"vision_model.encoder.layers.{stacked[1]}.self_attn.{letter}_proj.{stacked[2]}"] = part
        else:
            result[rename(name, _TO_CLIP, "an open_clip vision tower")] = weight
    return result


def image_encoder_to_open_clip(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert transformers' weights to open_clip's; the inverse of `image_encoder_from_open_clip`."""
    result: dict[str, Tensor] = {}
    for name, weight in weights.items():
        split = re.fullmatch(r"vision_model\.encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(weight|bias)", name)
        if name == "visual_projection.weight":
            result["proj"] = weight.t().contiguous()
        elif split is None:
            result[rename(name, _TO_OPEN_CLIP, "a CLIP image encoder in transformers' naming")] = weight
        elif split[2] == "q":
            parts = [weights[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
            result[f"transformer.resblocks.{split[1]}.attn.in_proj_{split[3]}"] = torch.cat(parts)
    return result
