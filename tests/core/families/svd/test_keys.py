"""The rules between naming schemes, against every name of the real files."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from weight_names import key_hash

from exvideo_core.errors import CheckpointError
from exvideo_core.families.svd.keys import (
    as_pointwise,
    extension_site,
    extension_to_sgm,
    image_encoder_from_open_clip,
    image_encoder_to_open_clip,
    sgm_to_extension,
    unet_from_diffusers,
    vae_from_diffusers,
)

GOLDEN: dict[str, Any] = json.loads(
    gzip.decompress((Path(__file__).parents[3] / "golden" / "weight_names.json.gz").read_bytes())
)
FILES: dict[str, dict[str, list[int]]] = GOLDEN["files"]
UNET = "model.diffusion_model."
VISION = "conditioner.embedders.0.open_clip.model.visual."


@pytest.mark.parametrize("file", ["svd_xt", "exvideo_svd_128f", "cogvideox_vae"])
def test_fingerprints_are_the_reference_s(file: str) -> None:
    shapes = {name: tuple(shape) for name, shape in FILES[file].items()}

    assert key_hash(shapes) == GOLDEN["hashes"][file]


def test_extension_names_map_one_to_one_and_back() -> None:
    names = {name: extension_to_sgm(name) for name in FILES["exvideo_svd_128f"]}

    assert len(set(names.values())) == 528
    assert all(sgm_to_extension(new) == old for old, new in names.items())
    assert all(extension_site(new) for new in names.values())


def test_extension_replaces_480_tensors_of_the_base_and_adds_48() -> None:
    base = FILES["svd_xt"]
    mapped = {UNET + extension_to_sgm(name): shape for name, shape in FILES["exvideo_svd_128f"].items()}
    shared = mapped.keys() & base.keys()

    assert len(shared) == 480
    assert all(mapped[name] == base[name] for name in shared)
    assert {name[name.index("extension.") :] for name in mapped.keys() - shared} == {
        "extension.positions.weight",
        "extension.mix.weight",
        "extension.mix.bias",
    }


def test_the_whole_temporal_transformer_is_the_extension_s() -> None:
    base = {name.removeprefix(UNET) for name in FILES["svd_xt"] if name.startswith(UNET)}
    mapped = {extension_to_sgm(name) for name in FILES["exvideo_svd_128f"]}

    assert {name for name in base if extension_site(name)} == mapped & base


def test_blocks_go_where_the_reference_puts_them() -> None:
    assert extension_to_sgm("blocks.39.positional_conv.bias") == "input_blocks.5.1.extension.mix.bias"
    assert extension_to_sgm("blocks.83.ff_in.weight") == "middle_block.1.time_stack.0.ff_in.net.2.weight"
    assert extension_to_sgm("blocks.195.norm_out.bias") == "output_blocks.11.1.time_stack.0.norm3.bias"
    assert extension_to_sgm("blocks.7.act_fn_in.proj.bias") == "input_blocks.1.1.time_stack.0.ff_in.net.0.proj.bias"
    assert extension_to_sgm("blocks.7.attn2.to_out.bias") == "input_blocks.1.1.time_stack.0.attn2.to_out.0.bias"


@pytest.mark.parametrize(
    "name", ["blocks.8.norm_in.weight", "blocks.7.norm4.weight", "blocks.7.", "norm_in.weight", ""]
)
def test_unknown_extension_names_are_errors(name: str) -> None:
    with pytest.raises(CheckpointError, match="is not a weight of an ExVideo extension"):
        extension_to_sgm(name)


@pytest.mark.parametrize(
    "name", ["input_blocks.1.0.time_stack.in_layers.0.bias", "output_blocks.0.1.time_stack.0.norm1.bias", "out.0.bias"]
)
def test_other_weights_have_no_extension_name(name: str) -> None:
    with pytest.raises(CheckpointError, match="is not a weight of an ExVideo extension"):
        sgm_to_extension(name)


def test_unet_names_of_diffusers_are_all_reproduced() -> None:
    expected = {old: new.removeprefix(UNET) for old, new in GOLDEN["maps"]["unet"].items()}

    assert len(expected) == 1428
    assert unet_from_diffusers(expected) == expected


def test_vae_names_of_diffusers_are_all_reproduced() -> None:
    prefixes = ("first_stage_model.", "conditioner.embedders.3.encoder.")
    pairs = GOLDEN["maps"]["vae"].items()
    expected = {old: new.removeprefix(prefixes[0]).removeprefix(prefixes[1]) for old, new in pairs}

    assert len(expected) == 374
    assert vae_from_diffusers(expected) == expected


def test_depth_and_attention_of_a_diffusers_unet_are_read_from_its_names() -> None:
    names = unet_from_diffusers(
        [
            "down_blocks.0.resnets.0.spatial_res_block.norm1.weight",
            "down_blocks.0.downsamplers.0.conv.weight",
            "down_blocks.1.attentions.0.norm.weight",
            "up_blocks.0.attentions.1.proj_in.weight",
            "up_blocks.0.upsamplers.0.conv.bias",
            "up_blocks.1.resnets.1.temporal_res_block.conv2.bias",
        ]
    )

    assert list(names.values()) == [
        "input_blocks.1.0.in_layers.0.weight",
        "input_blocks.2.0.op.weight",
        "input_blocks.3.1.norm.weight",
        "output_blocks.1.1.proj_in.weight",
        "output_blocks.1.2.conv.bias",
        "output_blocks.3.0.time_stack.out_layers.3.bias",
    ]


@pytest.mark.parametrize("name", ["down_blocks.0.resnets.0.conv9.weight", "side_blocks.0.resnets.0.norm1.weight", "x"])
@pytest.mark.parametrize("rules", [unet_from_diffusers, vae_from_diffusers])
def test_unknown_diffusers_names_are_errors(rules: Callable[[list[str]], dict[str, str]], name: str) -> None:
    with pytest.raises(CheckpointError, match="in diffusers' naming"):
        rules([name])


def test_linear_attention_weights_become_pointwise_convolutions() -> None:
    weight = torch.randn(8, 8)

    assert as_pointwise("encoder.mid.attn_1.proj_out.weight", weight).shape == (8, 8, 1, 1)
    assert as_pointwise("encoder.mid.attn_1.norm.weight", weight) is weight
    assert as_pointwise("decoder.mid.attn_1.q.weight", weight[:, :, None, None]).shape == (8, 8, 1, 1)


def open_clip_weights() -> dict[str, torch.Tensor]:
    names = {name.removeprefix(VISION): shape for name, shape in FILES["svd_xt"].items() if name.startswith(VISION)}
    narrow = {name: [size // 64 if size % 64 == 0 else size for size in shape] for name, shape in names.items()}
    return {name: torch.randn(shape) for name, shape in narrow.items()}


def test_image_encoder_names_become_those_of_transformers() -> None:
    weights = image_encoder_from_open_clip(open_clip_weights())
    expected = FILES["svd_xt_image_encoder_diffusers"]

    assert weights.keys() == expected.keys()
    for name, weight in weights.items():
        assert list(weight.shape) == [size // 64 if size % 64 == 0 else size for size in expected[name]], name


def test_image_encoder_survives_the_round_trip() -> None:
    weights = open_clip_weights()
    restored = image_encoder_to_open_clip(image_encoder_from_open_clip(weights))

    assert restored.keys() == weights.keys()
    assert all(torch.equal(restored[name], weights[name]) for name in weights)


def test_stacked_attention_is_split_in_the_order_q_k_v_and_the_projection_is_transposed() -> None:
    weights = open_clip_weights()
    converted = image_encoder_from_open_clip(weights)
    stacked = weights["transformer.resblocks.3.attn.in_proj_weight"]

    for place, letter in enumerate("qkv"):
        part = converted[f"vision_model.encoder.layers.3.self_attn.{letter}_proj.weight"]
        assert torch.equal(part, stacked[20 * place : 20 * (place + 1)])
    assert torch.equal(converted["visual_projection.weight"], weights["proj"].T)


@pytest.mark.parametrize(
    "name", ["transformer.resblocks.0.attn.other", "ln_mid.weight", "proj", "transformer.resblocks.0.attn.in_proj_bias"]
)
def test_unknown_image_encoder_names_and_impossible_shapes_are_errors(name: str) -> None:
    with pytest.raises(CheckpointError, match="open_clip"):
        image_encoder_from_open_clip({name: torch.zeros(1)})
