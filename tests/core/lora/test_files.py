"""LoRA files are read whole or refused with the reason, and written so that others read them."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import pytest
import torch
from narrow_cogvideox import build_transformer
from safetensors.torch import load_file, save_file
from torch import Tensor

from exvideo_core.errors import CheckpointError
from exvideo_core.lora import LoRA, LoRAPair, new_lora, read_lora, save_lora

FILES: dict[str, dict[str, list[int]]] = json.loads(
    gzip.decompress((Path(__file__).parents[2] / "golden" / "weight_names.json.gz").read_bytes())
)["files"]
TO_Q = "transformer_blocks.0.attn1.to_q.weight"
TO_OUT = "transformer_blocks.1.attn1.to_out.0.weight"


def pair(name: str, rank: int = 4, width: int = 32, down: str = "lora_A", up: str = "lora_B") -> dict[str, Tensor]:
    return {f"{name}.{down}.weight": torch.randn(rank, width), f"{name}.{up}.weight": torch.randn(width, rank)}


def two_pairs() -> dict[str, Tensor]:
    return pair("blocks.0.attn1.to_q") | pair("blocks.1.attn1.to_out")


def written(folder: Path, weights: dict[str, Tensor]) -> Path:
    path = folder / "lora.safetensors"
    save_file(weights, path)
    return path


def refusal(folder: Path, weights: dict[str, Tensor]) -> str:
    with pytest.raises(CheckpointError) as error:
        read_lora(written(folder, weights))
    return str(error.value)


def test_pairs_are_read_as_they_are(tmp_path: Path) -> None:
    weights = two_pairs()
    lora = read_lora(written(tmp_path, weights))

    assert lora.pairs.keys() == {TO_Q, TO_OUT}
    assert torch.equal(lora.pairs[TO_OUT].down, weights["blocks.1.attn1.to_out.lora_A.weight"])
    assert torch.equal(lora.pairs[TO_OUT].up, weights["blocks.1.attn1.to_out.lora_B.weight"])
    assert (lora.rank, lora.source, lora.num_tensors, lora.unused) == (4, "lora.safetensors", 4, ())


def test_different_ranks_are_all_named(tmp_path: Path) -> None:
    weights = pair("blocks.0.q", rank=8) | pair("blocks.1.q", rank=2) | pair("blocks.2.q", rank=8)

    assert read_lora(written(tmp_path, weights)).rank == (2, 8)


@pytest.mark.parametrize(("alpha", "scale"), [(None, 1.0), (4.0, 1.0), (8.0, 2.0), (1.0, 0.25)])
def test_the_scale_is_alpha_over_rank(tmp_path: Path, alpha: float | None, scale: float) -> None:
    weights = pair("blocks.0.attn1.to_q")
    if alpha is not None:
        weights["blocks.0.attn1.to_q.alpha"] = torch.tensor(alpha, dtype=torch.bfloat16)

    assert read_lora(written(tmp_path, weights)).pairs[TO_Q].scale == scale


def test_the_published_file_is_read_at_full_size(tmp_path: Path) -> None:
    path, rank, end, header = tmp_path / "lora.safetensors", 128, 0, {}
    for name, shape in FILES["exvideo_cogvideox_lora_129f"].items():
        sizes = [rank if size == 16 else size for size in shape]  # the record has 16 for the rank, which is not known
        begin, end = end, end + 2 * math.prod(sizes)
        header[name] = {"dtype": "BF16", "shape": sizes, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(file.tell() + end)  # zeros that take no space on the disk

    lora = read_lora(path)

    assert end == 336 * 3072 * 128 * 2
    assert (len(lora.pairs), lora.num_tensors, lora.rank, lora.unused) == (168, 336, 128, ())
    assert {name for name in lora.pairs if name.startswith("transformer_blocks.41.")} == {
        f"transformer_blocks.41.attn1.{layer}.weight" for layer in ("to_q", "to_k", "to_v", "to_out.0")
    }
    assert all(pair.size == (3072, 3072) for pair in lora.pairs.values())
    path.unlink()


# refused


def test_half_a_pair_is_refused(tmp_path: Path) -> None:
    weights = two_pairs()
    del weights["blocks.1.attn1.to_out.lora_B.weight"]

    assert refusal(tmp_path, weights) == (
        "lora.safetensors is incomplete: 1 of its 2 pairs have one half only (first: "
        "blocks.1.attn1.to_out.lora_A.weight); download it again, or save it again from its training."
    )


def test_several_adapters_are_refused(tmp_path: Path) -> None:
    one, other = (
        pair("blocks.0.attn1.to_q", down=f"lora_A.{adapter}", up=f"lora_B.{adapter}") for adapter in ("dog", "cat")
    )

    assert "contains 2 adapters (cat, dog)" in refusal(tmp_path, one | other)


def test_two_spellings_of_one_weight_are_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, pair("blocks.0.attn1.to_q") | pair("transformer.transformer_blocks.0.attn1.to_q"))

    assert "which mean the same weight" in message


@pytest.mark.parametrize(
    ("down", "up"),
    [
        ([4, 32], [32, 8]),
        ([4, 32], [32]),
        ([4], [32, 4]),
        ([4, 32], [32, 4, 2, 2]),
        ([4, 32], [32, 1, 4]),
    ],
)
def test_factors_that_cannot_be_multiplied_are_refused(tmp_path: Path, down: list[int], up: list[int]) -> None:
    weights = two_pairs()
    weights["blocks.0.attn1.to_q.lora_A.weight"] = torch.zeros(down)
    weights["blocks.0.attn1.to_q.lora_B.weight"] = torch.zeros(up)

    assert "1 of its 2 pairs cannot be multiplied (first: blocks.0.attn1.to_q.lora_A" in refusal(tmp_path, weights)


def test_factors_of_rank_0_are_refused(tmp_path: Path) -> None:
    weights = two_pairs()
    weights["blocks.0.attn1.to_q.lora_A.weight"] = torch.zeros(0, 32)
    weights["blocks.0.attn1.to_q.lora_B.weight"] = torch.zeros(32, 0)

    assert "is damaged: no weight has the shape of blocks.0.attn1.to_q.lora_A.weight" in refusal(tmp_path, weights)


def test_an_alpha_of_several_numbers_is_refused(tmp_path: Path) -> None:
    weights = two_pairs() | {"blocks.0.attn1.to_q.alpha": torch.ones(4)}

    assert "blocks.0.attn1.to_q.alpha is no single number" in refusal(tmp_path, weights)


@pytest.mark.parametrize("name", ["blocks.0.attn1.to_q.lora_B.weight", "blocks.0.attn1.to_q.alpha"])
def test_values_that_are_no_numbers_are_refused(tmp_path: Path, name: str) -> None:
    weights = two_pairs() | {"blocks.0.attn1.to_q.alpha": torch.tensor(4.0)}
    weights[name].view(-1)[-1] = float("nan")

    assert f"in 1 of 5 tensors (first: {name})" in refusal(tmp_path, weights)


@pytest.mark.parametrize(
    "stranger",
    [
        "blocks.0.attn1.to_q.dora_scale",
        "blocks.0.attn1.to_q.lora_B.bias",
        "blocks.0.norm1.norm.lora_A.weight",
        "text_encoder.encoder.block.0.layer.0.SelfAttention.q.lora_A.weight",
    ],
)
def test_a_file_with_more_than_pairs_is_refused(tmp_path: Path, stranger: str) -> None:
    message = refusal(tmp_path, two_pairs() | {stranger: torch.ones(32, 1)})

    assert f"would apply only in part: 4 of its 5 tensors are known and 1 are not (first: {stranger})" in message


def test_lone_numbers_change_nothing_and_are_listed(tmp_path: Path) -> None:
    notes = {"blocks.5.attn1.to_q.alpha": torch.tensor(4.0), "lora_version": torch.ones(1)}
    lora = read_lora(written(tmp_path, two_pairs() | notes))

    assert set(lora.unused) == set(notes)
    assert (lora.pairs.keys(), lora.num_tensors) == ({TO_Q, TO_OUT}, 4)


@pytest.mark.parametrize(
    "names",
    [
        ["diffusion_model.blocks.0.self_attn.q"],  # Wan
        ["transformer_blocks.0.attn1.to_q", "transformer_blocks.0.attn2.to_q"],  # LTX-Video
        ["lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"],  # Stable Diffusion
    ],
)
def test_loras_for_other_models_are_refused(tmp_path: Path, names: list[str]) -> None:
    assert refusal(tmp_path, {key: value for name in names for key, value in pair(name).items()}) == (
        "lora.safetensors is a LoRA for another model, not a LoRA of CogVideoX; "
        "it is for another model: ExVideo's LoRA is ExVideo-CogVideoX-LoRA-129f-v1.safetensors."
    )


@pytest.mark.parametrize(
    ("file", "what"),
    [
        ("cogvideox_5b_transformer", "is a CogVideoX text-to-video transformer"),
        ("exvideo_svd_128f", "not a LoRA of CogVideoX; choose it as the extension, beside an SVD checkpoint"),
        ("cogvideox_vae", "is a CogVideoX VAE, not a LoRA of CogVideoX; choose it as the CogVideoX VAE"),
    ],
)
def test_files_of_other_kinds_are_refused(tmp_path: Path, file: str, what: str) -> None:
    narrow = {name: torch.zeros([min(size, 128) // 8 or 1 for size in shape]) for name, shape in FILES[file].items()}

    assert what in refusal(tmp_path, narrow)


def test_a_file_without_pairs_is_refused(tmp_path: Path) -> None:
    assert "is an unknown file" in refusal(tmp_path, {"blocks.0.attn1.to_q.alpha": torch.tensor(4.0)})


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    torch.save(two_pairs(), tmp_path / "lora.pt")

    with pytest.raises(CheckpointError, match="is a pickle"):
        read_lora(tmp_path / "lora.pt")


# written


def test_a_written_lora_is_read_back(tmp_path: Path) -> None:
    module = build_transformer()
    layers = ("to_q", "to_out.0", "net.0.proj", "net.2", "norm1.linear", "patch_embed.proj", "text_proj", "linear_1")
    lora = new_lora(module, layers, rank=3)
    save_lora(tmp_path / "new.safetensors", lora)
    back = read_lora(tmp_path / "new.safetensors")

    assert back.pairs.keys() == lora.pairs.keys()
    for name, original in lora.pairs.items():
        assert torch.equal(back.pairs[name].down, original.down)
        assert torch.equal(back.pairs[name].up, original.up)


def test_written_names_are_the_published_ones(tmp_path: Path) -> None:
    key = "blocks.1.attn1.to_out.lora_A.default.weight"
    lora = LoRA({TO_OUT: LoRAPair(torch.randn(4, 32), torch.randn(32, 4))}, "lora")
    save_lora(tmp_path / "new.safetensors", lora)

    assert set(load_file(tmp_path / "new.safetensors")) == {key, key.replace("lora_A", "lora_B")}


def test_the_scale_is_written_into_the_factors(tmp_path: Path) -> None:
    lora = LoRA({TO_Q: LoRAPair(torch.randn(4, 32), torch.randn(32, 4), alpha=8.0)}, "lora")
    save_lora(tmp_path / "new.safetensors", lora)
    back = read_lora(tmp_path / "new.safetensors").pairs[TO_Q]

    assert back.scale == 1
    assert torch.equal(back.up, 2 * lora.pairs[TO_Q].up)


def test_a_refused_write_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "new.safetensors").mkdir()
    lora = LoRA({TO_Q: LoRAPair(torch.randn(4, 32), torch.randn(32, 4))}, "lora")

    with pytest.raises(CheckpointError, match="is a folder"):
        save_lora(tmp_path / "new.safetensors", lora)
    assert [path.name for path in tmp_path.iterdir()] == ["new.safetensors"]
