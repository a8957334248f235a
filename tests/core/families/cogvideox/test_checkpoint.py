"""Reading CogVideoX's networks, on narrow files with all the names of the real ones."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from exvideo_core.cli.inspect import inspect
from exvideo_core.errors import CheckpointError
from exvideo_core.families.cogvideox import detect
from exvideo_core.families.cogvideox.checkpoint import read_text_encoder, read_transformer, read_vae
from exvideo_core.families.cogvideox.config import TransformerConfig
from exvideo_core.families.cogvideox.pipeline import build_text_encoder, build_transformer, build_vae
from exvideo_core.families.cogvideox.transformer import CogVideoXTransformer
from exvideo_core.weights.detect import identify
from exvideo_core.weights.kind import Kind
from exvideo_core.weights.safetensors_files import open_weights

GOLDEN: dict[str, Any] = json.loads(
    gzip.decompress((Path(__file__).parents[3] / "golden" / "weight_names.json.gz").read_bytes())
)
TRANSFORMER, VAE, TEXT_ENCODER = "cogvideox_5b_transformer", "cogvideox_vae", "cogvideox_5b_text_encoder"
READERS = {"transformer": read_transformer, "vae": read_vae, "text_encoder": read_text_encoder}

Weights = dict[str, Tensor]


def narrowed(size: int) -> int:
    """Two heads of 64; T5's table keeps its rows."""
    for unit, factor in ((3072, 24), (512, 32), (128, 8)):
        if size % unit == 0:
            return size // factor
    return size


def weights_of(file: str, layers: int | None = None) -> Weights:
    """Random weights by the names of a published file, or of its first blocks."""
    torch.manual_seed(0)
    return {
        name: torch.randn([size if size == 32_128 else narrowed(size) for size in shape], dtype=torch.float16)
        for name, shape in GOLDEN["files"][file].items()
        if layers is None or not _is_later(name, layers)
    }


def _is_later(name: str, layers: int) -> bool:
    words = name.split(".")
    return "blocks" in words[0] and int(words[1]) >= layers


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All networks as single files, narrow."""
    folder = tmp_path_factory.mktemp("models")
    for file in (TRANSFORMER, VAE, TEXT_ENCODER):
        save_file(weights_of(file), folder / f"{file}.safetensors")
    return folder


def shapes_of(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in weights.items()}


def same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


# whole parts


@pytest.mark.parametrize(
    ("file", "read", "build", "naming"),
    [
        (TRANSFORMER, read_transformer, build_transformer, "diffusers"),
        (VAE, read_vae, build_vae, "diffusers"),
        (TEXT_ENCODER, read_text_encoder, lambda part: build_text_encoder(part).t5, "transformers"),
    ],
)
def test_published_names_fill_the_networks_exactly(folder: Path, file: str, read, build, naming: str) -> None:
    opened = open_weights(folder / f"{file}.safetensors")
    part = read(opened)
    network = build(part)

    assert (part.source, opened.identity.naming) == (f"{file}.safetensors", naming)
    assert network.state_dict().keys() == part.weights.keys()
    assert not any(weight.is_meta for weight in network.state_dict().values())
    assert part.weights.keys() - {"encoder.embed_tokens.weight"} == GOLDEN["files"][file].keys()
    name, weight = next(network.named_parameters())
    assert weight.data_ptr() == part.weights[name].data_ptr()


@pytest.mark.parametrize(("file", "slot"), [(TRANSFORMER, "transformer"), (VAE, "vae"), (TEXT_ENCODER, "text_encoder")])
def test_an_opened_file_is_not_reopened(folder: Path, monkeypatch: pytest.MonkeyPatch, file: str, slot: str) -> None:
    opened = open_weights(folder / f"{file}.safetensors")
    monkeypatch.setattr("exvideo_core.weights.safetensors_files._header", None)  # what parses
    part = READERS[slot](opened)

    assert part.source == f"{file}.safetensors"
    assert part.weights.keys() - {"encoder.embed_tokens.weight"} == set(opened)


def test_the_image_to_video_transformer_loads_and_is_known_as_such(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "i2v.safetensors"
    save_file(weights_of("cogvideox_5b_i2v_transformer", layers=2), path)
    part = read_transformer(path)

    build_transformer(part)
    assert open_weights(path).identity.kind is detect.IMAGE_TO_VIDEO
    assert "patch_embed.pos_embedding" in part.weights
    assert open_weights(folder / f"{TRANSFORMER}.safetensors").identity.kind is detect.TRANSFORMER


@pytest.mark.parametrize(("heads", "layers"), [(1, 1), (2, 6), (3, 6), (30, 6), (29, 30)])
@pytest.mark.parametrize(("in_channels", "kind"), [(16, detect.TRANSFORMER), (32, detect.IMAGE_TO_VIDEO)])
def test_narrow_transformers_are_known_by_their_channels(heads: int, layers: int, in_channels: int, kind: Kind) -> None:
    config = TransformerConfig(width=64 * heads, layers=layers, in_channels=in_channels, text_dim=64, time_dim=96)
    with torch.device("meta"):
        found = identify(shapes_of(CogVideoXTransformer(config).state_dict()))

    assert found.kind is kind
    assert f"(width {64 * heads}, {layers} layers)" in found.what


def save_folder(folder: Path, suffix: str = "") -> dict[str, Weights]:
    """A whole model in diffusers' layout, the transformer and the text encoder in two shards."""
    stems = {"transformer": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
    parts = {
        "transformer": weights_of(TRANSFORMER, 2),
        "vae": weights_of(VAE),
        "text_encoder": weights_of(TEXT_ENCODER),
    }
    for part, weights in parts.items():
        (folder / part).mkdir()
        if part == "vae":
            save_file(weights, folder / part / f"{stems[part]}{suffix}.safetensors")
            continue
        half = len(weights) // 2
        for number, names in enumerate((list(weights)[:half], list(weights)[half:]), 1):
            shard = folder / part / f"{stems[part]}-0000{number}-of-00002{suffix}.safetensors"
            save_file({name: weights[name] for name in names}, shard)
    for part in ("tokenizer", "scheduler"):
        (folder / part).mkdir()
    return parts


@pytest.mark.parametrize("suffix", ["", ".fp16"])
def test_a_part_is_found_by_its_folder_and_by_the_model_s(tmp_path: Path, suffix: str) -> None:
    model = tmp_path / "CogVideoX-5b"
    model.mkdir()
    parts = save_folder(model, suffix)

    for part, read in READERS.items():
        inside, own = read(model), read(model / part)
        assert (inside.source, own.source) == (f"CogVideoX-5b/{part}", part)
        for found in (inside, own):
            found.weights.pop("encoder.embed_tokens.weight", None)
            assert same(found.weights, parts[part])


def test_one_shard_stands_for_all(tmp_path: Path) -> None:
    expected = save_folder(tmp_path)["transformer"]
    shard = tmp_path / "transformer" / "diffusion_pytorch_model-00002-of-00002.safetensors"

    assert same(read_transformer(shard).weights, expected)


# T5's table, which has two names


@pytest.mark.parametrize("names", [["shared.weight"], ["encoder.embed_tokens.weight"], None], ids=str)
def test_the_table_is_read_under_either_name(folder: Path, tmp_path: Path, names: list[str] | None) -> None:
    weights = weights_of(TEXT_ENCODER)
    table = weights.pop("shared.weight")
    both = ["shared.weight", "encoder.embed_tokens.weight"]
    save_file(weights | {name: table.clone() for name in names or both}, tmp_path / "t5.safetensors")

    part = read_text_encoder(tmp_path / "t5.safetensors")

    assert part.weights["shared.weight"] is part.weights["encoder.embed_tokens.weight"]
    assert torch.equal(part.weights["shared.weight"], table)


def test_what_is_not_of_the_encoder_is_left_out(tmp_path: Path) -> None:
    weights = weights_of(TEXT_ENCODER)
    names = ["decoder.block.0.layer.0.SelfAttention.q.weight", "lm_head.weight", "logit_scale"]
    save_file(weights | {name: torch.zeros(1) for name in names}, tmp_path / "t5.safetensors")

    assert len(read_text_encoder(tmp_path / "t5.safetensors").weights) == len(weights) + 1


def two_tables(weights: Weights) -> None:
    weights["encoder.embed_tokens.weight"] = weights["shared.weight"].clone()
    weights["shared.weight"][7, 0] += 1


def short_table(weights: Weights) -> None:
    weights["shared.weight"] = weights["shared.weight"][:1000].clone()


@pytest.mark.parametrize(
    ("change", "words"),
    [(two_tables, "two token embeddings that differ"), (short_table, r"shape \[1000, 128\].* have 32128 rows")],
)
def test_other_tables_are_refused(tmp_path: Path, change: Callable[[Weights], None], words: str) -> None:
    weights = weights_of(TEXT_ENCODER)
    change(weights)
    save_file(weights, tmp_path / "t5.safetensors")

    with pytest.raises(CheckpointError, match=words):
        read_text_encoder(tmp_path / "t5.safetensors")


def test_fp8_tables_are_compared_too(tmp_path: Path) -> None:
    table = torch.randn(32_128, 4).to(torch.float8_e4m3fn)
    names = ["shared.weight", "encoder.embed_tokens.weight", "encoder.block.0.layer.0.SelfAttention.q.weight"]
    save_file({name: table.clone() for name in names}, tmp_path / "t5.safetensors")

    assert len(read_text_encoder(tmp_path / "t5.safetensors").weights) == 3


# wrong and damaged files


@pytest.mark.parametrize(
    ("file", "part", "words"),
    [
        (
            "cogvideox_2b_transformer",
            "transformer",
            "is a CogVideoX-2B text-to-video transformer (width 1920, 30 layers), not the transformer of "
            "CogVideoX-5B; ExVideo extends CogVideoX-5B: choose the transformer of THUDM/CogVideoX-5b.",
        ),
        ("cogvideox_1_5_5b_t2v_transformer", "transformer", "ExVideo's LoRA is for CogVideoX 1.0: choose the"),
        (
            VAE,
            "transformer",
            "is a CogVideoX VAE, not the transformer of CogVideoX-5B; choose it as the CogVideoX",
        ),
        ("exvideo_cogvideox_lora_129f", "transformer", "apply it as the LoRA of a CogVideoX-5B text-to-video model"),
        ("exvideo_svd_128f", "transformer", "an ExVideo extension of SVD for 128 frames, not the transformer"),
        (
            TEXT_ENCODER,
            "vae",
            "is a T5 text encoder of 24 layers, not a CogVideoX VAE; choose it as the",
        ),
        ("svd_xt_vae_diffusers", "vae", "the autoencoder of SVD in diffusers' naming, not a CogVideoX VAE"),
        (TRANSFORMER, "text_encoder", "not a T5 text encoder; choose it as the CogVideoX transformer."),
    ],
)
def test_a_wrong_file_is_told_where_it_belongs(tmp_path: Path, file: str, part: str, words: str) -> None:
    path = tmp_path / "file.safetensors"
    write_header(path, GOLDEN["files"][file])

    with pytest.raises(CheckpointError) as error:
        READERS[part](path)

    assert str(error.value).startswith("file.safetensors is ")
    assert words in str(error.value)


def write_header(path: Path, shapes: Mapping[str, list[int]]) -> None:
    """A file of these tensors, all zero and without taking space."""
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def test_what_is_beside_the_transformer_in_a_file_is_an_error(tmp_path: Path) -> None:
    weights = {f"model.diffusion_model.{name}": weight for name, weight in weights_of(TRANSFORMER, 1).items()}
    save_file(weights | {"vae.decoder.conv_in.conv.bias": torch.zeros(1)}, tmp_path / "all.safetensors")

    with pytest.raises(CheckpointError, match=r"contains 'vae\.decoder\.conv_in\.conv\.bias', which is no part"):
        read_transformer(tmp_path / "all.safetensors")


@pytest.mark.parametrize("name", ["scaled_fp8", "transformer_blocks.0.attn1.to_q.scale_weight"])
def test_quantised_files_are_refused(tmp_path: Path, name: str) -> None:
    save_file(weights_of(TRANSFORMER, 1) | {name: torch.ones(1)}, tmp_path / "fp8_scaled.safetensors")

    with pytest.raises(CheckpointError, match="is quantised, with scales beside its weights"):
        read_transformer(tmp_path / "fp8_scaled.safetensors")


@pytest.mark.parametrize(
    ("file", "part", "name"),
    [
        (TRANSFORMER, "transformer", "norm_out.norm.bias"),
        (VAE, "vae", "decoder.norm_out.conv_y.conv.weight"),
        (TEXT_ENCODER, "text_encoder", "encoder.final_layer_norm.weight"),
    ],
)
def test_missing_and_unknown_weights_are_named_when_the_network_is_filled(
    tmp_path: Path, file: str, part: str, name: str
) -> None:
    weights = weights_of(file)
    weights["stranger"] = weights.pop(name)
    path = tmp_path / "x.safetensors"
    save_file(weights, path)

    verdict = next(line for line in inspect(path).splitlines() if line.startswith("  loads"))

    assert READERS[part](path).weights.keys() - {"encoder.embed_tokens.weight"} == weights.keys()
    assert f"1 tensors are missing (first: {name}), 1 are unknown (first: stranger)" in verdict


# what is said about them


@pytest.mark.parametrize("file", [TRANSFORMER, VAE, TEXT_ENCODER])
def test_inspect_tries_whether_a_part_would_load(folder: Path, file: str) -> None:
    text = inspect(folder / f"{file}.safetensors")

    assert "  loads       yes\n" in text
    assert "  use         choose it as the CogVideoX" in text


def test_inspect_describes_the_parts_of_a_model_s_folder(tmp_path: Path) -> None:
    save_folder(tmp_path)
    text = inspect(tmp_path)

    assert text.count("  loads       yes\n") == 3
    assert "transformer: a CogVideoX text-to-video transformer (width 128, 2 layers)" in text
    assert "vae: a CogVideoX VAE" in text


def test_inspect_tries_the_lora_and_says_no_to_other_models(tmp_path: Path) -> None:
    lora = GOLDEN["files"]["exvideo_cogvideox_lora_129f"]
    write_header(tmp_path / "lora.safetensors", lora)
    write_header(tmp_path / "half.safetensors", {name: shape for name, shape in lora.items() if "lora_A" in name})
    write_header(tmp_path / "2b.safetensors", GOLDEN["files"]["cogvideox_2b_transformer"])

    assert "  loads       yes, over a transformer that has its 168 weights\n" in inspect(tmp_path / "lora.safetensors")
    assert "  loads       no: half.safetensors" in inspect(tmp_path / "half.safetensors")
    assert "  loads       no\n" in inspect(tmp_path / "2b.safetensors")
