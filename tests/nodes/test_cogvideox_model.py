"""Our CogVideoX MODEL behaves as ComfyUI's own ones do."""

import json

import pytest
import torch
from in_comfyui import relative
from safetensors.torch import load_file, save_file

from exvideo_core.families.cogvideox.checkpoint import read_transformer
from exvideo_core.families.cogvideox.pipeline import build_transformer

LAYERS = ("transformer_blocks.0.attn1.to_q", "transformer_blocks.1.ff.net.2")


@pytest.fixture
def load(pack, cog_files):
    def load(dtype=torch.float32, path=cog_files[0]):
        return pack.cogvideox.loading._load_model(path, dtype)

    return load


def test_prediction_equals_the_cores(cog, cog_files):
    from comfy.model_management import unload_all_models

    unload_all_models()  # and with them the LoRAs of other tests
    core = build_transformer(read_transformer(cog_files[0]))
    x, text = torch.randn(2, 16, 3, 4, 6), torch.randn(2, 226, 8)
    with torch.inference_mode():
        wanted = core(x, torch.tensor([999, 20]), text)
        found = cog.model.model.diffusion_model(x, torch.tensor([999.0, 20.0]), text)

    assert relative(found, wanted) <= 1e-5


def test_network_is_told_the_trained_timesteps(cog, monkeypatch):
    told = []
    network = type(cog.model.model.diffusion_model)
    forward = network.forward
    monkeypatch.setattr(
        network, "forward", lambda self, x, t, *rest, **more: told.append(t) or forward(self, x, t, *rest, **more)
    )
    cog.sample(steps=5)

    assert [float(t[0]) for t in told] == [999, 749, 500, 250, 0]


def test_stock_lora_loader_works(cog, load):
    import comfy.sd

    weights, merged = {}, load()
    for layer in LAYERS:
        weight = merged.model.diffusion_model.get_submodule(layer).weight
        up, down = torch.randn(weight.shape[0], 2), torch.randn(2, weight.shape[1])
        weights |= {f"diffusion_model.{layer}.lora_up.weight": up, f"diffusion_model.{layer}.lora_down.weight": down}
        weight.data += 0.1 * up @ down
    patched, _ = comfy.sd.load_lora_for_models(cog.model, None, weights, 0.1, 0)

    assert relative(cog.sample(patched), cog.sample(merged)) <= 1e-4
    assert relative(cog.sample(patched), cog.sample()) > 1e-3


def test_clone_and_copy_for_another_device(cog):
    clone = cog.model.clone()
    factory, arguments = cog.model.cached_patcher_init[:2]
    fresh = factory(*arguments, disable_dynamic=True)

    assert clone.model is cog.model.model
    assert fresh.model is not cog.model.model
    assert torch.equal(cog.sample(clone), cog.sample())
    assert torch.equal(cog.sample(fresh), cog.sample())


def test_modelsave_writes_the_published_file(cog, cog_files, tmp_path, load):
    import comfy.sd

    comfy.sd.save_checkpoint(str(tmp_path / "model.safetensors"), cog.model)

    published, saved = load_file(cog_files[0]), load_file(tmp_path / "model.safetensors")
    assert saved.keys() - published.keys() <= {"v_pred", "ztsnr"}  # notes of ComfyUI's
    assert all(torch.equal(saved[name], weight) for name, weight in published.items())
    assert torch.equal(cog.sample(load(path=tmp_path / "model.safetensors")), cog.sample())


def test_checkpointsave_is_refused_in_words(cog, pack, tmp_path):
    import comfy.sd

    with pytest.raises(pack.errors.ExVideoError, match="ModelSave"):
        comfy.sd.save_checkpoint(str(tmp_path / "all.safetensors"), cog.model, cog.clip, cog.vae)


def test_partly_loaded_models_compute_the_same(cog):
    import comfy.model_management

    whole = cog.sample()
    cog.model.detach()
    comfy.model_management.load_models_gpu([cog.model])
    layers = [module for module in cog.model.model.modules() if hasattr(module, "comfy_cast_weights")]
    for module in layers:
        module.comfy_cast_weights = True  # what partial loading switches on
    try:
        assert layers
        assert relative(cog.sample(), whole) <= 1e-6
    finally:
        for module in layers:
            del module.comfy_cast_weights


@pytest.mark.parametrize(("name", "tolerance"), [("fp16", 0.05), ("bf16", 0.3), ("fp8_e4m3fn", 1.0), ("default", 0.3)])
def test_weight_types(cog, pack, load, name, tolerance):
    dtype = pack.comfy_bridge.file_lists.WEIGHT_TYPES[name]
    model = load(dtype)

    assert relative(cog.sample(model, guidance=(1.0, 1.0)), cog.sample(guidance=(1.0, 1.0))) <= tolerance
    if dtype:
        weights = model.model.diffusion_model.state_dict()
        assert weights["transformer_blocks.0.attn1.to_q.weight"].dtype == dtype
        assert weights["transformer_blocks.0.attn1.norm_q.weight"].dtype.itemsize > 1


def test_layers_made_for_dynamic_memory_load_the_same(cog, pack, cog_files, load, monkeypatch):
    """Where ComfyUI's dynamic VRAM is on, linear layers have no weight until they are loaded."""
    import comfy.memory_management

    monkeypatch.setattr(comfy.memory_management, "aimdo_enabled", True, raising=False)
    model = load(torch.float16)
    vae = pack.cogvideox.vae.CogVAE(load_file(cog_files[2]), "vae")
    monkeypatch.undo()

    weights = model.model.diffusion_model.state_dict()
    assert weights["transformer_blocks.0.attn1.to_q.weight"].dtype == torch.float16
    assert relative(cog.sample(model, guidance=(1.0, 1.0)), cog.sample(guidance=(1.0, 1.0))) <= 0.05
    assert torch.equal(vae.decode(torch.ones(1, 16, 3, 2, 2)), cog.vae.decode(torch.ones(1, 16, 3, 2, 2)))


def test_attention_can_be_overridden(cog):
    calls = []

    def count(attention, *args, **kwargs):
        calls.append(args[0].shape)
        return attention(*args, **kwargs)

    model = cog.model.clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = count

    assert torch.equal(cog.sample(model), cog.sample())
    assert calls


def test_diffusion_model_wrappers_are_called(cog):
    from comfy.patcher_extension import WrappersMP

    shapes = []

    def watch(executor, x, *args, **kwargs):
        shapes.append(tuple(x.shape))
        return executor(x, *args, **kwargs)

    model = cog.model.clone()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", watch)
    cog.sample(model, steps=1)

    assert shapes
    assert shapes[0][1:] == (16, 5, 4, 6)


def test_stock_step_caching_works(cog):
    from comfy_extras.nodes_easycache import EasyCacheNode

    cached = EasyCacheNode.execute(cog.model, 3.0, 0.0, 1.0, False).result[0]

    assert 0 < relative(cog.sample(cached, steps=8), cog.sample(steps=8)) < 2  # steps were skipped


def test_stock_context_windows_work(cog):
    from comfy_extras.nodes_context_windows import ContextWindowsManualNode

    options = {"context_schedule": "standard_static", "fuse_method": "pyramid", "freenoise": False, "dim": 2}
    options |= {"context_stride": 1, "closed_loop": False}
    whole, cut = (ContextWindowsManualNode.execute(cog.model, n, 1, **options).result[0] for n in (5, 3))

    assert relative(cog.sample(whole), cog.sample()) <= 1e-5
    assert torch.isfinite(cog.sample(cut)).all()


def test_previews_have_the_first_frames_picture(cog):
    import latent_preview
    from comfy.cli_args import LatentPreviewMethod

    cog.pack.host.args.preview_method = LatentPreviewMethod.Latent2RGB
    previewer = latent_preview.get_previewer(torch.device("cpu"), cog.model.model.latent_format)

    _, picture, _ = previewer.decode_latent_to_preview_image("JPEG", cog.sample(steps=1))
    assert picture.size == (6, 4)


def test_files_may_bring_their_own_preview_colours(cog_files, pack, load, tmp_path):
    factors, weights = [[0.1, 0.2, 0.3]] * 16, load_file(cog_files[0])
    notes = {"latent_rgb_factors": json.dumps(factors), "latent_rgb_factors_bias": "[0.5, 0, 0]"}
    save_file(weights, tmp_path / "own.safetensors", notes)
    save_file(weights, tmp_path / "bad.safetensors", {"latent_rgb_factors": "[1, 2]"})

    form = load(path=tmp_path / "own.safetensors").model.latent_format
    torch.testing.assert_close(torch.tensor(form.latent_rgb_factors), torch.tensor(factors))
    assert form.latent_rgb_factors_bias == [0.5, 0, 0]
    assert form.scale_factor == 0.7
    with pytest.raises(pack.errors.CheckpointError, match="previews"):
        load(path=tmp_path / "bad.safetensors")


def test_other_texts_are_refused_in_words(cog, pack):
    network = cog.model.model.diffusion_model

    with pytest.raises(pack.errors.ExVideoError, match="a text of 8 channels, and got one of 768"):
        network(torch.zeros(1, 16, 3, 4, 4), torch.ones(1), torch.zeros(1, 77, 768))
    with pytest.raises(pack.errors.ExVideoError, match="got none"):
        network(torch.zeros(1, 16, 3, 4, 4), torch.ones(1))
    with pytest.raises(pack.errors.ExVideoError, match="ControlNet"):
        network(torch.zeros(1, 16, 3, 4, 4), torch.ones(1), torch.zeros(1, 226, 8), control={})


def test_ksampler_refuses_other_latents_in_words(cog, pack):
    with pytest.raises(pack.errors.ExVideoError, match="this latent is not CogVideoX's"):
        cog.ksampler(latent={"samples": torch.ones(1, 4, 16, 16)})


def test_sharded_transformer_loads_through_its_first_shard(cog, cog_files, load, tmp_path):
    weights = load_file(cog_files[0])
    names = sorted(weights)
    for number, part in enumerate((names[:9], names[9:]), start=1):
        save_file(
            {n: weights[n] for n in part}, tmp_path / f"diffusion_pytorch_model-0000{number}-of-00002.safetensors"
        )

    model = load(path=tmp_path / "diffusion_pytorch_model-00001-of-00002.safetensors")

    assert torch.equal(cog.sample(model), cog.sample())


def test_wrong_file_in_a_slot_is_named(pack, cog_files):
    transformer, text_encoder, vae = cog_files

    with pytest.raises(pack.errors.CheckpointError, match="is a CogVideoX VAE"):
        pack.cogvideox.loading.load_cogvideox(vae, text_encoder, vae, None)
    with pytest.raises(pack.errors.CheckpointError, match="is a CogVideoX text-to-video transformer"):
        pack.cogvideox.loading.load_cogvideox(transformer, transformer, vae, None)
