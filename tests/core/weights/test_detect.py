"""Every file people confuse is recognised by its names and shapes."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from exvideo_core.errors import CheckpointError
from exvideo_core.families.cogvideox import detect as cogvideox
from exvideo_core.families.svd import detect as svd
from exvideo_core.weights import detect
from exvideo_core.weights.detect import identify, require
from exvideo_core.weights.kind import Kind, Shapes

FILES: dict[str, dict[str, list[int]]] = json.loads(
    gzip.decompress((Path(__file__).parents[2] / "golden" / "weight_names.json.gz").read_bytes())
)["files"]
UNET = "model.diffusion_model."


def shapes_of(file: str) -> dict[str, tuple[int, ...]]:
    return {name: tuple(shape) for name, shape in FILES[file].items()}


def part_of(shapes: Shapes, prefix: str) -> Shapes:
    return {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}


@pytest.mark.parametrize(
    ("file", "kind", "what"),
    [
        ("svd_xt", svd.CHECKPOINT, "an SVD checkpoint"),
        ("exvideo_svd_128f", svd.EXTENSION, "an ExVideo extension of SVD for 128 frames"),
        ("svd_xt_unet_diffusers", svd.UNET, "the UNet of SVD in diffusers' naming"),
        ("svd_xt_vae_diffusers", svd.VAE, "the autoencoder of SVD in diffusers' naming"),
        ("svd_xt_image_encoder_diffusers", svd.IMAGE_ENCODER, "a CLIP image encoder"),
        (
            "cogvideox_5b_transformer",
            cogvideox.TRANSFORMER,
            "a CogVideoX text-to-video transformer (width 3072, 42 layers)",
        ),
        (
            "cogvideox_2b_transformer",
            cogvideox.TRANSFORMER_2B,
            "a CogVideoX-2B text-to-video transformer (width 1920, 30 layers)",
        ),
        (
            "cogvideox_5b_i2v_transformer",
            cogvideox.IMAGE_TO_VIDEO,
            "a CogVideoX image-to-video transformer (width 3072, 42 layers)",
        ),
        (
            "cogvideox_1_5_5b_t2v_transformer",
            cogvideox.TRANSFORMER_1_5,
            "a CogVideoX 1.5 text-to-video transformer (width 3072, 42 layers)",
        ),
        ("cogvideox_5b_text_encoder", cogvideox.TEXT_ENCODER, "a T5 text encoder of 24 layers"),
        ("cogvideox_vae", cogvideox.VAE, "a CogVideoX VAE"),
        ("exvideo_cogvideox_lora_129f", cogvideox.LORA, "a CogVideoX LoRA of rank 16"),
    ],
)
def test_published_files_are_recognised(file: str, kind: Kind, what: str) -> None:
    found = identify(shapes_of(file))

    assert (found.kind, found.what) == (kind, what)


@pytest.mark.parametrize("file", sorted(set(FILES) - {"cogvideox_2b_transformer"}))
def test_narrow_files_are_recognised_as_their_full_size_models(file: str) -> None:
    narrow = {
        name: tuple(size // 16 if size % 128 == 0 and len(shape) < 4 else size for size in shape)
        for name, shape in shapes_of(file).items()
    }

    assert identify(narrow).kind is identify(shapes_of(file)).kind


@pytest.mark.parametrize("frames", [16, 64, 257])
def test_extensions_of_any_length_are_recognised(frames: int) -> None:
    shapes = {
        name: (frames, *shape[1:]) if name.endswith("embeddings") else shape
        for name, shape in shapes_of("exvideo_svd_128f").items()
    }

    assert identify(shapes).what == f"an ExVideo extension of SVD for {frames} frames"


@pytest.mark.parametrize("kept", [1, 20, 527])
def test_incomplete_extensions_are_recognised(kept: int) -> None:
    found = identify(dict(list(shapes_of("exvideo_svd_128f").items())[:kept]))

    assert found.kind is svd.EXTENSION
    assert f"incomplete ({kept} of 528 tensors)" in found.what


def test_a_checkpoint_saved_with_its_extension_says_so() -> None:
    extended = shapes_of("svd_xt") | {f"{UNET}input_blocks.1.1.extension.positions.weight": (96, 320)}

    assert identify(extended).kind is svd.CHECKPOINT
    assert identify(extended).what == "an SVD checkpoint with ExVideo's extension for 96 frames"


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model."])
def test_a_unet_alone_is_no_checkpoint(prefix: str) -> None:
    unet = {prefix + name: shape for name, shape in part_of(shapes_of("svd_xt"), UNET).items()}

    assert identify(unet).kind is svd.UNET


def test_the_parts_of_a_checkpoint_are_recognised_alone() -> None:
    shapes = shapes_of("svd_xt")

    assert identify(part_of(shapes, "first_stage_model.")).kind is svd.VAE
    assert identify(part_of(shapes, "conditioner.embedders.0.open_clip.model.")).kind is svd.IMAGE_ENCODER


def test_image_models_are_recognised() -> None:
    plain = {f"{UNET}input_blocks.0.0.weight": (320, 4, 3, 3), f"{UNET}out.2.bias": (4,)}

    assert identify(plain).what == "a Stable Diffusion checkpoint, which makes single pictures"
    assert "XL" in identify(plain | {f"{UNET}label_emb.0.0.weight": (1280, 2816)}).what


def test_a_transformer_in_comfyui_s_naming_is_recognised() -> None:
    shapes = {
        name.replace("transformer_blocks.", "blocks."): shape
        for name, shape in shapes_of("cogvideox_5b_transformer").items()
    }

    assert identify(shapes).kind is cogvideox.TRANSFORMER
    assert identify(shapes).naming == "comfyui"


PREFIXES = [
    "", "transformer.", "diffusion_model.", "model.diffusion_model.", "pipe.dit.", "base_model.model.",
    "base_model.model.transformer.",
]  # fmt: skip


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("blocks", ["blocks", "transformer_blocks"])
@pytest.mark.parametrize("factors", ["lora_A|lora_B", "lora_A.default|lora_B.default", "lora_down|lora_up"])
@pytest.mark.parametrize("layer", ["attn1.to_out", "attn1.to_out.0", "ff.0", "ff.net.0.proj", "norm_q", "q", "ff_proj"])
def test_cogvideox_loras_are_recognised_in_every_spelling(prefix: str, blocks: str, factors: str, layer: str) -> None:
    down, up = factors.split("|")
    name = f"{prefix}{blocks}.3.{layer}"

    found = identify({f"{name}.{down}.weight": (8, 3072), f"{name}.{up}.weight": (3072, 8), f"{name}.alpha": ()})

    assert (found.kind, found.what) == (cogvideox.LORA, "a CogVideoX LoRA of rank 8")


@pytest.mark.parametrize("blocks", ["blocks", "transformer_blocks"])
def test_cogvideox_loras_in_kohya_s_spelling_are_recognised(blocks: str) -> None:
    name = f"lora_unet_{blocks}_3_attn1_to_q"

    assert identify({f"{name}.lora_down.weight": (4, 64), f"{name}.lora_up.weight": (64, 4)}).kind is cogvideox.LORA


@pytest.mark.parametrize(
    "name",
    [
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",  # Stable Diffusion
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
        "diffusion_model.blocks.0.self_attn.q",  # Wan
        "transformer.transformer_blocks.0.attn.to_q",  # Flux
        "transformer_blocks.0.attn2.to_q",  # LTX-Video
    ],
)
def test_other_loras_are_recognised_as_such(name: str) -> None:
    factors = {f"{name}.lora_A.weight": (4, 64), f"{name}.lora_B.weight": (64, 4)}

    assert identify(factors).kind is detect.OTHER_LORA


def test_blocks_that_also_attend_to_text_are_another_model_s() -> None:
    names = [f"transformer.transformer_blocks.0.{layer}.to_q" for layer in ("attn1", "attn2")]  # LTX-Video
    factors = {f"{name}.lora_{factor}.weight": (4, 64) for name in names for factor in "AB"}

    assert identify(factors).kind is detect.OTHER_LORA


def test_unknown_files_are_described() -> None:
    assert identify({"b": (1,), "a": (2,)}).what == "an unknown file (2 tensors, the first of them a)"
    assert identify({}).what == "an unknown file (0 tensors)"


def test_a_wrong_slot_is_explained() -> None:
    with pytest.raises(CheckpointError) as error:
        require("model.fp16.safetensors", identify(shapes_of("exvideo_svd_128f")), svd.CHECKPOINT, "an SVD checkpoint")

    assert str(error.value) == (
        "model.fp16.safetensors is an ExVideo extension of SVD for 128 frames, not an SVD checkpoint; "
        "choose it as the extension, beside an SVD checkpoint such as svd_xt.safetensors."
    )


@pytest.mark.parametrize("kind", [*svd.KINDS, *cogvideox.KINDS, detect.OTHER_LORA, detect.UNKNOWN])
def test_every_kind_says_where_it_belongs_without_a_full_stop(kind: Kind) -> None:
    assert kind.where
    assert not kind.where.endswith(".")
