"""Every spelling of a LoRA's keys that trainers write leads to the weight it means."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from exvideo_core.families.cogvideox.lora_keys import LORA_KEYS, layer_name, to_diffsynth_name
from exvideo_core.lora.keys import Key

FILES: dict[str, dict[str, list[int]]] = json.loads(
    gzip.decompress((Path(__file__).parents[3] / "golden" / "weight_names.json.gz").read_bytes())
)["files"]
# the weights of the real 5B transformer that are matrices or convolutions
WEIGHTS = [name for name, shape in FILES["cogvideox_5b_transformer"].items() if len(shape) > 1]
PREFIXES = [
    "",
    "transformer.",
    "diffusion_model.",
    "model.diffusion_model.",
    "pipe.dit.",
    "base_model.model.",
    "base_model.model.transformer.",
    "base_model.model.model.diffusion_model.",
]
FACTORS = [
    ("lora_A.weight", "lora_B.weight"),
    ("lora_A.default.weight", "lora_B.default.weight"),
    ("lora_A.exvideo_129f.weight", "lora_B.exvideo_129f.weight"),
    ("lora_down.weight", "lora_up.weight"),
]
BLOCK_LAYERS = {
    "attn1.to_q": ["attn1.to_q", "q"],
    "attn1.to_k": ["attn1.to_k", "k"],
    "attn1.to_v": ["attn1.to_v", "v"],
    "attn1.to_out.0": ["attn1.to_out", "attn1.to_out.0", "attn_out"],
    "attn1.norm_q": ["norm_q", "attn1.norm_q"],
    "attn1.norm_k": ["norm_k", "attn1.norm_k"],
    "ff.net.0.proj": ["ff.0", "ff.net.0.proj", "ff_proj"],
    "ff.net.2": ["ff.2", "ff.net.2", "ff_out"],
    "norm1.linear": ["norm1.linear"],
    "norm2.linear": ["norm2.linear"],
}
END_LAYERS = {
    "patch_embed.proj": ["patch_embed.proj", "patchify.proj"],
    "patch_embed.text_proj": ["patch_embed.text_proj", "context_embedder"],
    "time_embedding.linear_1": [
        "time_embedding.linear_1",
        "time_embedder.timestep_embedder.0",
        "time_embedding_linear_1",
    ],
    "time_embedding.linear_2": [
        "time_embedding.linear_2",
        "time_embedder.timestep_embedder.2",
        "time_embedding_linear_2",
    ],
    "norm_out.linear": ["norm_out.linear"],
    "proj_out": ["proj_out"],
}
SPELLINGS = [
    *(
        (f"{blocks}.{block}.{spelling}", f"transformer_blocks.{block}.{layer}.weight")
        for layer, spellings in BLOCK_LAYERS.items()
        for spelling in spellings
        for blocks in ("blocks", "transformer_blocks")
        for block in (0, 7, 41)
    ),
    *((spelling, f"{layer}.weight") for layer, spellings in END_LAYERS.items() for spelling in spellings),
]


def test_the_layers_are_those_of_the_real_transformer() -> None:
    in_one_block = {name.split(".", 2)[2] for name in WEIGHTS if name.startswith("transformer_blocks.")}
    at_ends = {name for name in WEIGHTS if not name.startswith("transformer_blocks.")}

    assert {f"{layer}.weight" for layer in BLOCK_LAYERS if ".norm_" not in layer} == in_one_block
    assert {f"{layer}.weight" for layer in END_LAYERS} == at_ends


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize(("down", "up"), FACTORS, ids=[down for down, _ in FACTORS])
def test_dotted_spellings_lead_to_the_weight(prefix: str, down: str, up: str) -> None:
    adapter = down.split(".")[1].replace("weight", "")

    for spelling, weight in SPELLINGS:
        assert LORA_KEYS.parse(f"{prefix}{spelling}.{down}") == Key(weight, "down", adapter)
        assert LORA_KEYS.parse(f"{prefix}{spelling}.{up}") == Key(weight, "up", adapter)
        assert LORA_KEYS.parse(f"{prefix}{spelling}.alpha") == Key(weight, "alpha", "")


@pytest.mark.parametrize("prefix", ["lora_unet_", "lora_transformer_", "base_model.model.lora_unet_"])
def test_underscored_spellings_lead_to_the_weight(prefix: str) -> None:
    for spelling, weight in SPELLINGS:
        name = prefix + spelling.replace(".", "_")
        assert LORA_KEYS.parse(f"{name}.lora_down.weight") == Key(weight, "down", "")
        assert LORA_KEYS.parse(f"{name}.lora_up.weight") == Key(weight, "up", "")
        assert LORA_KEYS.parse(f"{name}.alpha") == Key(weight, "alpha", "")


def test_all_weights_of_the_real_transformer_are_told_apart_without_dots() -> None:
    spelled = {f"lora_unet_{name.removesuffix('.weight').replace('.', '_')}": name for name in WEIGHTS}

    assert len(spelled) == len(WEIGHTS)
    assert all(f"{layer_name(spelling)}.weight" == name for spelling, name in spelled.items())


def test_the_published_names_are_made_again() -> None:
    published = set(FILES["exvideo_cogvideox_lora_129f"])
    parsed = {key: LORA_KEYS.parse(key) for key in published}
    factor = {"down": "lora_A", "up": "lora_B"}

    assert {
        to_diffsynth_name(key.parameter).replace(".weight", f".{factor[key.role]}.default.weight")
        for key in parsed.values()
        if key
    } == published
    assert len({key.parameter for key in parsed.values() if key}) == 168


def test_names_for_diffsynth_are_different_and_lead_back() -> None:
    names = {name: to_diffsynth_name(name) for name in WEIGHTS}

    assert len(set(names.values())) == len(WEIGHTS)
    assert all(f"{layer_name(other.removesuffix('.weight'))}.weight" == name for name, other in names.items())


@pytest.mark.parametrize("name", ["blocks.3.attn1.to_q.weight", "transformer_blocks.3.attn1.to_q.bias", "proj_in", ""])
def test_names_for_diffsynth_are_made_of_our_weights_only(name: str) -> None:
    with pytest.raises(ValueError, match="is no weight of CogVideoX"):
        to_diffsynth_name(name)


@pytest.mark.parametrize(
    "key",
    [
        "transformer_blocks.0.attn2.to_q.lora_A.weight",  # LTX-Video
        "diffusion_model.blocks.0.self_attn.q.lora_A.weight",  # Wan
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight",  # Stable Diffusion
        "text_encoder.encoder.block.0.layer.0.SelfAttention.q.lora_A.weight",
        "blocks.x.attn1.to_q.lora_A.weight",
        "blocks.0.attn1.to_q.lora_A.two.parts.weight",
        "blocks.0.attn1.to_q.lora_A.bias",
        "blocks.0.attn1.to_q.dora_scale",
        "blocks.0.attn1.to_q.weight",
        "lora_unet_blocks.0.attn1.to_q.lora_down.weight",
        "transformer_blocks_0_attn1_to_q.lora_down.weight",
        "",
    ],
)
def test_other_keys_are_not_understood(key: str) -> None:
    assert LORA_KEYS.parse(key) is None
