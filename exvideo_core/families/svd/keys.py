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

from ...errors import CheckpointError

# Pairs of prefixes: a name that starts with one of a pair gets the other.
_Pairs = tuple[tuple[str, str], ...]
_Rule = tuple[str, str | Callable[[re.Match[str]], str]]


def _swap(name: str, pairs: _Pairs, *, back: bool = False) -> str | None:
    for pair in pairs:
        old, new = reversed(pair) if back else pair
        if name.startswith(old):
            return new + name.removeprefix(old)
    return None


def _unknown(name: str, kind: str) -> CheckpointError:
    return CheckpointError(f"{name!r} is not a weight of {kind}; choose a file of that kind, or download it again.")


# ExVideo's extension of SVD

# DiffSynth numbers all sub-blocks of the UNet in one list; these 16 are the temporal attentions in forward order: six
# on the down path, one in the middle, nine on the up path.
_BLOCKS = (7, 17, 29, 39, 51, 61, 83, 113, 123, 133, 144, 154, 164, 175, 185, 195)
_DOWN = [f"input_blocks.{i}.1" for i in (1, 2, 4, 5, 7, 8)]
_UP = [f"output_blocks.{i}.1" for i in range(3, 12)]
_SITES = dict(zip(_BLOCKS, [*_DOWN, "middle_block.1", *_UP], strict=True))
EXTENSION_SITES = {site: block for block, site in _SITES.items()}

_EXTENSION: _Pairs = (
    ("positional_embedding.embeddings", "extension.positions.weight"),
    ("positional_conv.", "extension.mix."),
    ("positional_embedding_proj.", "time_pos_embed."),
    ("act_fn_in.proj.", "time_stack.0.ff_in.net.0.proj."),
    ("ff_in.", "time_stack.0.ff_in.net.2."),
    ("act_fn_out.proj.", "time_stack.0.ff.net.0.proj."),
    ("ff_out.", "time_stack.0.ff.net.2."),
    ("norm_out.", "time_stack.0.norm3."),
    *((f"attn{i}.to_out.", f"time_stack.0.attn{i}.to_out.0.") for i in (1, 2)),
    *((f"attn{i}.to_{x}.", f"time_stack.0.attn{i}.to_{x}.") for i in (1, 2) for x in "qkv"),
    *((f"{norm}.", f"time_stack.0.{norm}.") for norm in ("norm_in", "norm1", "norm2")),
)
_OF_EXTENSION = re.compile(r"(?P<site>.+)\.(?P<rest>(?:time_stack\.0|time_pos_embed|extension)\..+)")


def extension_to_sgm(name: str) -> str:
    """Rename a weight of a published extension (`blocks.7.norm_in.weight`) to the UNet's name."""
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
    site = _SITES.get(int(match[1])) if match else None
    rest = _swap(match[2], _EXTENSION) if match else None
    if site is None or rest is None:
        raise _unknown(name, "an ExVideo extension of SVD")
    return f"{site}.{rest}"


def sgm_to_extension(name: str) -> str:
    """Rename a weight of the UNet to its name in a published extension; the inverse of `extension_to_sgm`."""
    match = _OF_EXTENSION.fullmatch(name)
    block = EXTENSION_SITES.get(match["site"]) if match else None
    rest = _swap(match["rest"], _EXTENSION, back=True) if match else None
    if block is None or rest is None:
        raise _unknown(name, "an ExVideo extension of SVD")
    return f"blocks.{block}.{rest}"


def extension_site(name: str) -> str | None:
    """The transformer (`input_blocks.1.1`) whose extended part has this sgm name; None for other weights."""
    match = _OF_EXTENSION.fullmatch(name)
    return match["site"] if match else None


# diffusers' UNetSpatioTemporalConditionModel

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_ENDS: _Pairs = (
    ("conv_in.", "input_blocks.0.0."),
    ("conv_norm_out.", "out.0."),
    ("conv_out.", "out.2."),
    ("time_embedding.linear_1.", "time_embed.0."),
    ("time_embedding.linear_2.", "time_embed.2."),
    ("add_embedding.linear_1.", "label_emb.0.0."),
    ("add_embedding.linear_2.", "label_emb.0.2."),
)
_UNET_PARTS: tuple[_Rule, ...] = (
    (rf"spatial_res_block\.({'|'.join(_RESNET)})\.", lambda m: f"{_RESNET[m[1]]}."),
    (rf"temporal_res_block\.({'|'.join(_RESNET)})\.", lambda m: f"time_stack.{_RESNET[m[1]]}."),
    (r"temporal_transformer_blocks\.", "time_stack."),
    (r"time_pos_embed\.linear_1\.", "time_pos_embed.0."),  # diffusers counts linear layers, sgm all layers
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
    per_level = 1 + _highest(names, r"down_blocks\.\d+\.resnets\.(\d+)\.")
    with_attention = {match[1] for name in names if (match := re.match(r"up_blocks\.(\d+)\.attentions\.", name))}
    kinds = {"resnets": 0, "attentions": 1}

    def number(match: re.Match[str], offset: int) -> int:  # of a block in a level
        return int(match[1]) * (per_level + 1) + offset

    rules: tuple[_Rule, ...] = (
        *((re.escape(old), new) for old, new in _UNET_ENDS),
        # a level's downsampler is an input block of its own, its upsampler part of the last output block
        (r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.", lambda m: f"input_blocks.{number(m, per_level + 1)}.0.op."),
        (
            r"down_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.",
            lambda m: f"input_blocks.{number(m, 1 + int(m[3]))}.{kinds[m[2]]}.",
        ),
        (r"mid_block\.(resnets|attentions)\.(\d+)\.", lambda m: f"middle_block.{2 * int(m[2]) + kinds[m[1]]}."),
        (
            r"up_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.",
            lambda m: f"output_blocks.{number(m, int(m[3]))}.{kinds[m[2]]}.",
        ),
        (
            r"up_blocks\.(\d+)\.upsamplers\.0\.",
            lambda m: f"output_blocks.{number(m, per_level)}.{2 if m[1] in with_attention else 1}.",
        ),
    )
    return {name: _from_diffusers(name, rules, _UNET_PARTS, "SVD's UNet") for name in names}


def _from_diffusers(name: str, blocks: tuple[_Rule, ...], parts: tuple[_Rule, ...], network: str) -> str:
    match = re.fullmatch(r"(.+?(?:resnets|attentions)\.\d+\.)(.+)", name)
    block, part = (match[1], _rewrite(match[2], parts)) if match else (name, "")
    place = _rewrite(block, blocks)
    if place is None or part is None:
        raise _unknown(name, f"{network} in diffusers' naming")
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

_CLIP_ENDS: _Pairs = (
    ("class_embedding", "vision_model.embeddings.class_embedding"),
    ("conv1.weight", "vision_model.embeddings.patch_embedding.weight"),
    ("positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    ("ln_pre.", "vision_model.pre_layrnorm."),  # sic
    ("ln_post.", "vision_model.post_layernorm."),
)
_CLIP_LAYER: _Pairs = (
    ("ln_1.", "layer_norm1."),
    ("ln_2.", "layer_norm2."),
    ("attn.out_proj.", "self_attn.out_proj."),
    ("mlp.c_fc.", "mlp.fc1."),
    ("mlp.c_proj.", "mlp.fc2."),
)


def image_encoder_from_open_clip(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert open_clip's weights (`visual.` removed) to transformers' names and layouts.

    open_clip stacks q, k and v in `in_proj` [3D, D] and stores the projection as [D, E]; transformers has three
    [D, D] and [E, D].
    """
    result: dict[str, Tensor] = {}
    for name, weight in weights.items():
        layer = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)", name)
        stacked = re.fullmatch(r"attn\.in_proj_(weight|bias)", layer[2]) if layer else None
        place = f"vision_model.encoder.layers.{layer[1]}." if layer else ""
        if name == "proj" and weight.ndim == 2:
            result["visual_projection.weight"] = weight.t().contiguous()
        elif stacked and weight.ndim and weight.shape[0] % 3 == 0:
            for letter, part in zip("qkv", weight.chunk(3), strict=True):
                result[f"{place}self_attn.{letter}_proj.{stacked[1]}"] = part
        elif new := _swap(layer[2], _CLIP_LAYER) if layer else _swap(name, _CLIP_ENDS):
            result[place + new] = weight
        else:
            raise _unknown(name, "an open_clip vision tower")
    return result


def image_encoder_to_open_clip(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert transformers' weights to open_clip's; the inverse of `image_encoder_from_open_clip`."""
    result: dict[str, Tensor] = {}
    for name, weight in weights.items():
        layer = re.fullmatch(r"vision_model\.encoder\.layers\.(\d+)\.(.+)", name)
        split = re.fullmatch(r"self_attn\.([qkv])_proj\.(weight|bias)", layer[2]) if layer else None
        place = f"transformer.resblocks.{layer[1]}." if layer else ""
        if name == "visual_projection.weight":
            result["proj"] = weight.t().contiguous()
        elif split:
            if split[1] == "q":
                parts = [weights[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
                result[f"{place}attn.in_proj_{split[2]}"] = torch.cat(parts)
        elif new := _swap(layer[2], _CLIP_LAYER, back=True) if layer else _swap(name, _CLIP_ENDS, back=True):
            result[place + new] = weight
        else:
            raise _unknown(name, "a CLIP image encoder in transformers' naming")
    return result
