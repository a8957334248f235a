"""LoRAs of CogVideoX as ComfyUI's patches."""

import copy
from dataclasses import replace

import pytest
import torch
from in_comfyui import relative, save_random_lora
from narrow_cogvideox import NARROW, TINY, build_transformer, transformer_to_comfyui
from safetensors.torch import load_file, save_file

from exvideo_core.lora import merge, read_lora


@pytest.fixture
def apply(pack):
    return pack.cogvideox.lora.apply


def patched_weights(model):
    """The weights as they are while the model runs."""
    from comfy import model_management

    model_management.unload_all_models()  # of other clones, which share the weights
    model_management.load_models_gpu([model])
    weights = {name: weight.clone() for name, weight in model.model.diffusion_model.state_dict().items()}
    model_management.unload_all_models()
    return weights


@pytest.mark.parametrize(("strength", "alpha"), [(1.0, None), (0.6, 1.0), (-1.0, None)])
def test_patches_equal_the_cores_merge(cog, apply, tmp_path, strength, alpha):
    file = save_random_lora(tmp_path / "lora.safetensors", alpha=alpha)
    merged = build_transformer()
    merge(merged, read_lora(file), strength)

    found = patched_weights(apply(cog.model, file, strength)[0])

    assert found.keys() == merged.state_dict().keys()
    for name, weight in merged.state_dict().items():
        torch.testing.assert_close(found[name], weight, rtol=1e-6, atol=1e-6)


def test_clip_with_it_equals_that_of_merged_weights(cog, pack, apply, cog_files, cog_lora):
    merged = pack.cogvideox.loading._load_model(cog_files[0], torch.float32)
    merge(merged.model.diffusion_model, read_lora(cog_lora))

    patched, _report = apply(cog.model, cog_lora, 1.0)

    assert relative(cog.sample(patched), cog.sample(merged)) <= 1e-4
    assert relative(cog.sample(patched), cog.sample()) > 1e-3


@pytest.mark.parametrize("failing", [1, 4])
def test_memory_that_ends_while_it_is_added_is_an_error_and_the_next_run_is_right(
    cog, apply, cog_lora, monkeypatch, failing
):
    from comfy import model_management

    patched, _report = apply(cog.model, cog_lora, 1.0)
    expected, plain, calls, multiply = cog.sample(patched), cog.sample(), [], torch.mm
    model_management.unload_all_models()

    def ends(*factors):
        calls.append(factors)
        if len(calls) == failing:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return multiply(*factors)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "mm", ends)
        with pytest.raises(torch.cuda.OutOfMemoryError, match="while adding the LoRA to"):
            cog.sample(patched)

    assert torch.equal(cog.sample(), plain)
    assert torch.equal(cog.sample(patched), expected)


def test_given_model_and_its_weights_are_as_before(cog, apply, cog_lora):
    before, weights = cog.sample(), copy.deepcopy(cog.model.model.diffusion_model.state_dict())
    cog.sample(apply(cog.model, cog_lora, 1.0)[0])

    assert torch.equal(cog.sample(), before)
    for name, weight in cog.model.model.diffusion_model.state_dict().items():
        assert torch.equal(weight, weights[name])


def test_report_says_what_was_applied(cog, apply, cog_lora):
    _patched, report = apply(cog.model, cog_lora, 0.5)

    assert report == "lora.safetensors: 16 tensors of rank 2 applied to 8 weights at strength 0.5, 0 tensors unused."


def test_diffusers_naming_gives_the_same(cog, apply, cog_lora, tmp_path):
    layers = {name.removesuffix(".weight"): pair for name, pair in read_lora(cog_lora).pairs.items()}
    factors = {f"transformer.{layer}.lora_A.weight": pair.down for layer, pair in layers.items()}
    factors |= {f"transformer.{layer}.lora_B.weight": pair.up for layer, pair in layers.items()}
    save_file(factors, tmp_path / "diffusers.safetensors")

    found = patched_weights(apply(cog.model, tmp_path / "diffusers.safetensors", 1.0)[0])

    wanted = patched_weights(apply(cog.model, cog_lora, 1.0)[0])
    for name, weight in wanted.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-6, atol=1e-6)


def test_two_add_up(cog, apply, cog_lora):
    twice = patched_weights(apply(apply(cog.model, cog_lora, 0.5)[0], cog_lora, 0.25)[0])
    once = patched_weights(apply(cog.model, cog_lora, 0.75)[0])

    for name, weight in once.items():
        torch.testing.assert_close(twice[name], weight, rtol=1e-5, atol=1e-6)


def test_modelsave_with_it_is_a_transformer_of_the_published_names(cog, pack, apply, cog_lora, tmp_path):
    import comfy.sd

    patched, _report = apply(cog.model, cog_lora, 1.0)
    comfy.sd.save_checkpoint(str(tmp_path / "merged.safetensors"), patched)

    again = pack.cogvideox.loading._load_model(tmp_path / "merged.safetensors", torch.float32)
    assert relative(cog.sample(again), cog.sample(patched)) <= 1e-5


def test_part_of_a_lora_that_fits_is_an_error(cog, pack, apply, tmp_path):
    file = save_random_lora(tmp_path / "lora.safetensors", blocks=3)  # the model has 2

    with pytest.raises(pack.errors.CheckpointError, match="16 of its tensors would apply and 8 would not"):
        apply(cog.model, file, 1.0)


def test_wider_model_is_an_error(cog, pack, apply, tmp_path):
    with pytest.raises(pack.errors.CheckpointError, match="0 of its tensors would apply and 16 would not"):
        apply(cog.model, save_random_lora(tmp_path / "lora.safetensors", width=48), 1.0)


def test_foreign_lora_is_named(cog, pack, apply, tmp_path):
    name = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_q"
    factors = {f"{name}.lora_up.weight": torch.zeros(8, 2), f"{name}.lora_down.weight": torch.zeros(2, 8)}
    save_file(factors, tmp_path / "sd.safetensors")

    with pytest.raises(pack.errors.CheckpointError, match=r"sd\.safetensors is a LoRA for another model"):
        apply(cog.model, tmp_path / "sd.safetensors", 1.0)


def test_image_to_video_model_is_refused_in_words(cog, pack, apply, cog_lora, tmp_path):
    config = replace(TINY.transformer, in_channels=32, learned_positions=400)
    save_file(build_transformer(config).state_dict(), tmp_path / "i2v.safetensors")
    model = pack.cogvideox.loading._load_model(tmp_path / "i2v.safetensors", torch.float32)

    with pytest.raises(pack.errors.CheckpointError, match=r"image-to-video transformer.*THUDM/CogVideoX-5b"):
        apply(model, cog_lora, 1.0)
    with pytest.raises(pack.errors.ExVideoError, match=r"image-to-video transformer.*THUDM/CogVideoX-5b"):
        cog.sample(model)


def test_svd_is_refused_in_words(run, pack, apply, cog_lora):
    with pytest.raises(pack.errors.ExVideoError, match="SVDModel, and the LoRA is for CogVideoX-5B"):
        apply(run.model, cog_lora, 1.0)


# MODELs of ComfyUI's own loader


@pytest.fixture
def stock(pack, cog_files, tmp_path):
    import comfy.model_base
    import comfy.sd

    if not hasattr(comfy.model_base, "CogVideoX"):
        pytest.skip("this ComfyUI has no CogVideoX of its own")
    state = build_transformer(NARROW.transformer).state_dict()  # heads of 64 channels, as ComfyUI assumes
    return comfy.sd.load_diffusion_model_state_dict({transformer_to_comfyui(name): w for name, w in state.items()})


def test_stock_model_gets_it_and_the_report_warns(stock, apply, tmp_path):
    file = save_random_lora(tmp_path / "lora.safetensors", width=128)
    merged = build_transformer(NARROW.transformer)
    merge(merged, read_lora(file))

    patched, report = apply(stock, file, 1.0)

    found = patched_weights(patched)
    name = "blocks.1.attn_out.weight"
    wanted = merged.state_dict()["transformer_blocks.1.attn1.to_out.0.weight"].to(found[name])
    torch.testing.assert_close(found[name], wanted, rtol=1e-2, atol=1e-2)
    assert "applied to 8 weights" in report
    assert "1.875 times too far apart" in report
    assert "Load ExVideo CogVideoX" in report


def test_lora_file_is_not_changed(cog, apply, cog_lora):
    before = load_file(cog_lora)
    cog.sample(apply(cog.model, cog_lora, 1.0)[0])

    assert all(torch.equal(weight, before[name]) for name, weight in load_file(cog_lora).items())
