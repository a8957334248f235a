"""Weight names of CogVideoX's transformer in diffusers and in ComfyUI."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch
from narrow_cogvideox import transformer_to_comfyui
from safetensors.torch import save_file

from exvideo_core.errors import CheckpointError
from exvideo_core.families.cogvideox.checkpoint import read_transformer
from exvideo_core.families.cogvideox.keys import transformer_from_comfyui
from exvideo_core.weights.safetensors_files import open_weights

FILES: dict[str, dict[str, list[int]]] = json.loads(
    gzip.decompress((Path(__file__).parents[3] / "golden" / "weight_names.json.gz").read_bytes())
)["files"]
# ComfyUI 0.30, comfy/ldm/cogvideo/model.py: CogVideoXTransformer3DModel
COMFYUI_LAYERS = [
    "patch_embed.proj",
    "patch_embed.text_proj",
    "time_embedding_linear_1",
    "time_embedding_linear_2",
    "norm_final",
    "norm_out.linear",
    "norm_out.norm",
    "proj_out",
]
COMFYUI_BLOCK = [
    "norm1.linear",
    "norm1.norm",
    "q",
    "k",
    "v",
    "norm_q",
    "norm_k",
    "attn_out",
    "norm2.linear",
    "norm2.norm",
    "ff_proj",
    "ff_out",
]


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model.", "transformer."])
@pytest.mark.parametrize("naming", ["diffusers", "comfyui"])
@pytest.mark.parametrize("file", ["cogvideox_5b_transformer", "cogvideox_5b_i2v_transformer"])
def test_every_naming_gives_the_same_weights(tmp_path: Path, prefix: str, naming: str, file: str) -> None:
    expected = {name: torch.randn(shape[-1:]) for name, shape in FILES[file].items()}
    for layer, shape in {"patch_embed.proj": (8, 32 if "i2v" in file else 16, 2, 2), "proj_out": (64, 8)}.items():
        expected[f"{layer}.weight"] = torch.randn(shape)  # which tell the variants apart
    rename = transformer_to_comfyui if naming == "comfyui" else str
    notes = {"v_pred": torch.tensor([]), "ztsnr": torch.tensor([])}  # of ComfyUI's ModelSave
    save_file({prefix + rename(name): weight for name, weight in expected.items()} | notes, tmp_path / "x.safetensors")

    file = open_weights(tmp_path / "x.safetensors")
    part = read_transformer(file)

    assert file.identity.naming == naming
    assert part.weights.keys() == expected.keys()
    assert all(torch.equal(part.weights[name], weight) for name, weight in expected.items())


def test_names_of_comfyui_s_class_are_all_reproduced() -> None:
    layers = COMFYUI_LAYERS + [f"blocks.{number}.{layer}" for number in range(42) for layer in COMFYUI_BLOCK]
    expected = {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}
    names = FILES["cogvideox_5b_transformer"]

    assert {transformer_to_comfyui(name) for name in names} == expected
    assert [transformer_from_comfyui(transformer_to_comfyui(name)) for name in names] == list(names)


def test_comfyui_s_layers_are_the_right_ones() -> None:
    block = {layer: transformer_from_comfyui(f"blocks.17.{layer}.weight") for layer in COMFYUI_BLOCK}

    assert block["q"] == "transformer_blocks.17.attn1.to_q.weight"
    assert block["attn_out"] == "transformer_blocks.17.attn1.to_out.0.weight"
    assert block["ff_proj"] == "transformer_blocks.17.ff.net.0.proj.weight"
    assert block["ff_out"] == "transformer_blocks.17.ff.net.2.weight"
    assert block["norm_k"] == "transformer_blocks.17.attn1.norm_k.weight"
    assert transformer_from_comfyui("time_embedding_linear_2.bias") == "time_embedding.linear_2.bias"


@pytest.mark.parametrize("name", ["blocks.0.to_q.weight", "blocks.0.q.scale", "blocks.q.weight", "q.weight", "x", ""])
def test_unknown_names_are_errors(name: str) -> None:
    with pytest.raises(CheckpointError, match="is not a weight of CogVideoX's transformer"):
        transformer_from_comfyui(name)
