"""Merging adds the product to the weights exactly, all of it or nothing, and can be undone to the bit."""

from __future__ import annotations

import copy
import gzip
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from narrow_cogvideox import TINY, build_transformer, transformer_to_comfyui
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from exvideo_core.errors import CheckpointError
from exvideo_core.families.cogvideox.transformer import CogVideoXTransformer
from exvideo_core.lora import LoRA, LoRAPair, apply_lora, fit_lora, merge, new_lora, remove_loras, save_lora
from exvideo_core.weights.safetensors_files import open_weights

FILES: dict[str, dict[str, list[int]]] = json.loads(
    gzip.decompress((Path(__file__).parents[2] / "golden" / "weight_names.json.gz").read_bytes())
)["files"]
TO_Q = "transformer_blocks.0.attn1.to_q.weight"
TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
DTYPES = [torch.float32, torch.bfloat16]


def transformer(dtype: torch.dtype = torch.float32, layers: int = 2, **sizes: int) -> CogVideoXTransformer:
    return build_transformer(replace(TINY.transformer, layers=layers, **sizes)).to(dtype)


def random_lora(module: nn.Module, seed: int = 0, alpha: float | None = None, targets=TARGETS) -> LoRA:
    generator = torch.Generator().manual_seed(seed)
    lora = new_lora(module, targets, rank=4, alpha=alpha, generator=generator)
    pairs = {
        name: replace(pair, up=torch.randn(pair.up.shape, generator=generator)) for name, pair in lora.pairs.items()
    }
    return LoRA(pairs, source="lora.safetensors")


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in module.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def full_size_lora() -> LoRA:
    """The published pairs' names and shapes, without memory."""
    names = {f"transformer_blocks.{block}.attn1.{layer}.weight" for block in range(42) for layer in TARGETS}
    down, up = torch.empty(128, 3072, device="meta"), torch.empty(3072, 128, device="meta")
    return LoRA({name: LoRAPair(down, up) for name in sorted(names)}, source="exvideo.safetensors")


def full_size(file: str) -> dict[str, tuple[int, ...]]:
    return {name: tuple(shape) for name, shape in FILES[file].items()}


# what is added


@pytest.mark.parametrize("strength", [1.0, 0.6, -1.0, 0.0])
@pytest.mark.parametrize("alpha", [None, 2.0, 8.0])
def test_strength_times_scale_times_product_is_added(strength: float, alpha: float | None) -> None:
    module = transformer()
    before, lora = state(module), random_lora(module, alpha=alpha)
    merge(module, lora, strength)

    for name, weight in module.state_dict().items():
        expected = before[name]
        if name in lora.pairs:
            factor = strength * (1 if alpha is None else alpha / 4)
            expected = expected + factor * lora.pairs[name].up @ lora.pairs[name].down
        torch.testing.assert_close(weight, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dims", [2, 4, 5])
def test_convolutions_take_factors_of_any_number_of_dimensions(dims: int) -> None:
    module = transformer()
    before = module.patch_embed.proj.weight.detach().clone()
    down, up = torch.randn(3, 16, 2, 2), torch.randn(32, 3)
    shapes = {2: ((3, 64), (32, 3)), 4: ((3, 16, 2, 2), (32, 3, 1, 1)), 5: ((3, 16, 1, 2, 2), (32, 3, 1, 1, 1))}[dims]
    pair = LoRAPair(down.reshape(shapes[0]), up.reshape(shapes[1]))
    merge(module, LoRA({"patch_embed.proj.weight": pair}, "lora"))

    expected = before + torch.einsum("or,rihw->oihw", up, down)
    torch.testing.assert_close(module.patch_embed.proj.weight.data, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_factors_of_another_format_are_brought_to_the_weights_own(dtype: torch.dtype) -> None:
    one, other = transformer(dtype), transformer(dtype)
    lora = random_lora(one)
    halved = {name: LoRAPair(pair.down.to(dtype), pair.up.to(dtype)) for name, pair in lora.pairs.items()}
    merge(one, lora)
    merge(other, LoRA(halved, "lora"))

    assert one.proj_out.weight.dtype == dtype
    assert equal(one.state_dict(), other.state_dict())


def test_fp8_weights_keep_their_format() -> None:
    module = transformer()
    weight = module.get_parameter(TO_Q)
    weight.data = weight.data.to(torch.float8_e4m3fn)
    lora = LoRA({TO_Q: random_lora(module).pairs[TO_Q]}, "lora")
    expected = (weight.data.float() + lora.pairs[TO_Q].up @ lora.pairs[TO_Q].down).to(torch.float8_e4m3fn)
    merge(module, lora)

    assert torch.equal(weight.data.float(), expected.float())


def test_several_loras_add_up() -> None:
    together, apart = transformer(), transformer()
    one, other = random_lora(together, seed=1), random_lora(together, seed=2, targets=("to_q", "net.2"))
    merge(together, one, 0.5)
    merge(together, other, 0.25)

    for name, weight in apart.named_parameters():
        for lora, strength in ((one, 0.5), (other, 0.25)):
            if name in lora.pairs:
                weight.data += strength * lora.pairs[name].up @ lora.pairs[name].down
    for name, weight in together.named_parameters():
        torch.testing.assert_close(weight.data, apart.get_parameter(name).data)


def test_the_same_lora_twice_counts_twice() -> None:
    once, twice = transformer(), transformer()
    lora = random_lora(once)
    merge(once, lora, 2.0)
    merge(twice, lora)
    merge(twice, lora)

    torch.testing.assert_close(once.state_dict(), twice.state_dict())


# what is reported


def test_the_report_counts_the_tensors_of_the_file() -> None:
    module = transformer()
    lora = replace(random_lora(module, alpha=8.0), unused=("lora_version",))
    report = merge(module, lora, 0.5)

    assert (report.applied, report.unused, report.weights) == (3 * 8, 1, 8)
    assert (report.rank, report.strength, report.source) == (4, 0.5, "lora.safetensors")
    assert str(report) == (
        "lora.safetensors: 24 tensors of rank 4 applied to 8 weights at strength 0.5, 1 tensors unused"
    )


def test_apply_lora_reads_and_merges(tmp_path: Path) -> None:
    pipe = SimpleNamespace(transformer=transformer())
    expected, lora = transformer(), random_lora(pipe.transformer)
    save_lora(tmp_path / "exvideo.safetensors", lora)
    report = apply_lora(pipe, str(tmp_path / "exvideo.safetensors"), strength=0.7)
    merge(expected, lora, 0.7)

    assert (report.applied, report.unused, report.rank, report.source) == (16, 0, 4, "exvideo.safetensors")
    assert equal(pipe.transformer.state_dict(), expected.state_dict())


# undone


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_removing_restores_every_bit(dtype: torch.dtype) -> None:
    module = transformer(dtype)
    before = state(module)
    tensors = {name: weight.data_ptr() for name, weight in module.named_parameters()}
    for seed in range(3):
        merge(module, random_lora(module, seed), 0.3)
    assert not equal(before, module.state_dict())
    remove_loras(module)

    assert equal(before, module.state_dict())
    assert tensors == {name: weight.data_ptr() for name, weight in module.named_parameters()}


def test_removing_where_nothing_was_merged_changes_nothing() -> None:
    module = transformer()
    before = state(module)
    remove_loras(module)

    assert equal(before, module.state_dict())


def test_removing_follows_the_module_to_another_format() -> None:
    module = transformer()
    expected = state(transformer().to(torch.float16))
    merge(module, random_lora(module))
    module.to(torch.float16)
    remove_loras(module)

    assert equal(expected, module.state_dict())


def test_copies_can_be_restored_on_their_own() -> None:
    module = transformer()
    before = state(module)
    merge(module, random_lora(module))
    merged, duplicate = state(module), copy.deepcopy(module)
    remove_loras(duplicate)

    assert equal(before, duplicate.state_dict())
    assert equal(merged, module.state_dict())


def test_merging_adds_no_names_to_the_module() -> None:
    module = transformer()
    names = [*module.state_dict()], [name for name, _ in module.named_modules()]
    merge(module, random_lora(module))

    assert names == ([*module.state_dict()], [name for name, _ in module.named_modules()])


def test_mapped_files_are_not_written_to(tmp_path: Path) -> None:
    path = tmp_path / "transformer.safetensors"
    save_file(transformer().state_dict(), path)
    module, file = transformer(), open_weights(path)
    module.load_state_dict({name: file[name] for name in file}, assign=True)
    mapped = {name: weight.detach() for name, weight in module.named_parameters()}
    merge(module, random_lora(module))

    assert equal(mapped, load_file(path))
    assert not torch.equal(module.get_parameter(TO_Q).data, mapped[TO_Q])


def test_what_is_merged_in_inference_mode_can_be_trained() -> None:
    module = transformer()
    with torch.inference_mode():
        merge(module, random_lora(module))
        merged = module.get_parameter(TO_Q)
    (merged * merged).sum().backward()

    assert merged.grad is not None


def test_an_interrupted_merge_leaves_the_loras_that_were_there() -> None:
    module = transformer()
    before, lora = state(module), random_lora(module)
    last = [*lora.pairs][-1]
    broken = replace(lora.pairs[last], up=lora.pairs[last].up.to("meta"))  # cannot be multiplied
    merge(module, lora)
    merged = state(module)
    with pytest.raises(NotImplementedError):
        merge(module, LoRA({**lora.pairs, last: broken}, "broken"))

    assert equal(merged, module.state_dict())
    remove_loras(module)
    assert equal(before, module.state_dict())


# refused


def refusal(module: nn.Module, lora: LoRA) -> str:
    before = state(module)
    with pytest.raises(CheckpointError) as error:
        merge(module, lora)
    assert equal(before, module.state_dict())
    return str(error.value)


def test_a_lora_with_layers_the_model_lacks_is_refused() -> None:
    assert refusal(transformer(), random_lora(transformer(layers=3), alpha=4.0)) == (
        "lora.safetensors does not fit a CogVideoX text-to-video transformer (width 32, 2 layers): 24 of its tensors "
        "would apply and 12 would not; in the model, 4 tensors are missing (first: "
        "transformer_blocks.2.attn1.to_q.weight); choose the transformer this LoRA was made for; ExVideo's is "
        "THUDM/CogVideoX-5b. Nothing was changed."
    )


def test_a_lora_of_another_width_is_refused() -> None:
    message = refusal(transformer(), random_lora(transformer(width=64)))

    assert "0 of its tensors would apply and 16 would not" in message
    assert "8 have another shape (first: transformer_blocks.0.attn1.to_q.weight is [32, 32], [64, 64] is needed)"


def test_a_lora_for_pictures_and_text_is_refused_with_what_to_choose() -> None:
    message = refusal(transformer(in_channels=32), random_lora(transformer()))

    assert message == (
        "lora.safetensors does not fit a CogVideoX image-to-video transformer (width 32, 2 layers); ExVideo's LoRA is "
        "for text to video: choose the transformer of THUDM/CogVideoX-5b. Nothing was changed."
    )


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        ("cogvideox_5b_i2v_transformer", "ExVideo's LoRA is for text to video: choose the transformer of THUDM/"),
        ("cogvideox_1_5_5b_t2v_transformer", "ExVideo's LoRA is for CogVideoX 1.0: choose the transformer of THUDM/"),
        ("cogvideox_2b_transformer", "ExVideo extends CogVideoX-5B: choose the transformer of THUDM/CogVideoX-5b"),
        ("svd_xt", "choose a LoRA that was made for this model, or the transformer of THUDM/CogVideoX-5b"),
    ],
)
def test_the_published_lora_on_another_real_model_says_what_to_choose(file: str, sentence: str) -> None:
    with pytest.raises(CheckpointError) as error:
        fit_lora(full_size_lora(), full_size(file))

    assert sentence in str(error.value)


def test_the_published_lora_on_the_2b_model_counts_what_would_apply() -> None:
    with pytest.raises(CheckpointError) as error:
        fit_lora(full_size_lora(), full_size("cogvideox_2b_transformer"))

    assert (
        "0 of its tensors would apply and 336 would not; in the model, 48 tensors are missing (first: "
        "transformer_blocks.30.attn1.to_k.weight), 120 have another shape (first: "
        "transformer_blocks.0.attn1.to_k.weight is [1920, 1920], [3072, 3072] is needed)"
    ) in str(error.value)


@pytest.mark.parametrize("prefix", ["", "diffusion_model."])
def test_hosts_models_for_pictures_are_refused_by_their_own_names(prefix: str) -> None:
    with pytest.raises(CheckpointError, match=r"image-to-video transformer.*for text to video"):
        fit_lora(full_size_lora(), in_comfyui(full_size("cogvideox_5b_i2v_transformer"), prefix))


# hosts


def in_comfyui(shapes: dict[str, tuple[int, ...]], prefix: str) -> dict[str, tuple[int, ...]]:
    """Weights that LoRAs change as its own class names them, and some others."""
    names = {name: transformer_to_comfyui(name) for name, shape in shapes.items() if len(shape) in (2, 4)}
    return {prefix + names.get(name, name.replace("transformer_blocks.", "blocks.")): shapes[name] for name in shapes}


def test_the_published_lora_fits_the_real_transformer() -> None:
    lora = full_size_lora()

    assert fit_lora(lora, full_size("cogvideox_5b_transformer")) == lora.pairs


@pytest.mark.parametrize("prefix", ["", "diffusion_model.", "model.diffusion_model."])
def test_hosts_get_the_pairs_by_their_own_names(prefix: str) -> None:
    lora, ours = full_size_lora(), full_size("cogvideox_5b_transformer")
    theirs = in_comfyui(ours, prefix)

    assert fit_lora(lora, {prefix + name: shape for name, shape in ours.items()}) == {
        prefix + name: pair for name, pair in lora.pairs.items()
    }
    assert fit_lora(lora, theirs) == {prefix + transformer_to_comfyui(name): pair for name, pair in lora.pairs.items()}
