"""Our MODEL behaves as ComfyUI's own ones do."""

import pytest
import torch
from in_comfyui import Run, relative
from safetensors import safe_open

LAYERS = (
    "input_blocks.1.1.time_stack.0.attn1.to_q",
    "input_blocks.1.1.transformer_blocks.0.attn1.to_k",
    "middle_block.1.time_stack.0.ff.net.2",
)


@pytest.fixture(scope="module")
def exact(pack, loaded):
    """The latents of the model as it is, with which others are compared."""
    return Run(pack, *loaded).sample()


def lora_of(model, layers, prefix="diffusion_model.{}", rank=2):
    """A LoRA in the generic naming, and what it adds to each weight."""
    generator = torch.Generator().manual_seed(0)
    weights, deltas = {}, {}
    for layer in layers:
        out_channels, in_channels = model.model.diffusion_model.get_submodule(layer).weight.shape
        up = torch.randn(out_channels, rank, generator=generator)
        down = torch.randn(rank, in_channels, generator=generator)
        weights[f"{prefix.format(layer)}.lora_up.weight"] = up
        weights[f"{prefix.format(layer)}.lora_down.weight"] = down
        deltas[layer] = up @ down
    return weights, deltas


def test_lora_by_the_stock_loader_equals_adding_it_to_the_weights(run, pack, files):
    import comfy.sd

    weights, deltas = lora_of(run.model, LAYERS)
    patched, _ = comfy.sd.load_lora_for_models(run.model, None, weights, 0.5, 0)
    merged, *_ = pack.svd.loading.load_svd(*files, torch.float32)
    for layer, delta in deltas.items():
        merged.model.diffusion_model.get_submodule(layer).weight.data += 0.5 * delta
    before = run.sample()

    with_lora = run.sample(patched)

    assert relative(with_lora, before) > 1e-3
    assert relative(with_lora, run.sample(merged)) <= 1e-5
    assert torch.equal(run.sample(), before)  # the given model is as it was


def test_lora_in_diffusers_names_finds_its_layers(run):
    import comfy.lora

    keys = comfy.lora.model_lora_keys_unet(run.model.model, {})

    name = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q"
    assert keys[name] == "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    weights = run.model.model.state_dict()
    of_unet = {key for key in keys.values() if isinstance(key, str)}
    missing = {key for key in of_unet if key not in weights and ".skip_connection." not in key and ".op." not in key}
    assert not {key for key in missing if "transformer" in key}


def test_clone_shares_the_weights(run):
    clone = run.model.clone()

    assert clone.model is run.model.model
    assert torch.equal(run.sample(clone), run.sample())


def test_copy_for_another_device_is_a_model_of_its_own(run):
    factory, arguments = run.model.cached_patcher_init[:2]

    fresh = factory(*arguments, disable_dynamic=True)

    assert fresh.model is not run.model.model
    assert torch.equal(run.sample(fresh), run.sample())


def test_modelsave_and_back(run, exact, pack, tmp_path):
    import comfy.sd

    file = tmp_path / "model.safetensors"
    comfy.sd.save_checkpoint(str(file), run.model)
    with safe_open(file, "pt") as saved:
        assert "model.diffusion_model.middle_block.1.extension.positions.weight" in saved.keys()  # noqa: SIM118
    model, clip_vision, vae = pack.svd.loading.load_svd(file, None, torch.float32)

    assert clip_vision is None
    assert vae is None
    saved, own = model.model.diffusion_model.state_dict(), run.model.model.diffusion_model.state_dict()
    assert all(torch.equal(saved[name], weight) for name, weight in own.items())
    # weights at other addresses: some kernels then round otherwise
    assert relative(run.sample(model), exact) <= 5e-5


def test_checkpoint_saved_with_a_lora_holds_it(run, pack, tmp_path):
    import comfy.sd

    weights, _ = lora_of(run.model, LAYERS)
    patched, _ = comfy.sd.load_lora_for_models(run.model, None, weights, 0.5, 0)
    file = tmp_path / "checkpoint.safetensors"
    comfy.sd.save_checkpoint(str(file), patched, vae=run.vae, clip_vision=run.clip_vision)
    model, clip_vision, vae = pack.svd.loading.load_svd(file, None, torch.float32)

    assert relative(run.sample(model), run.sample(patched)) <= 2e-5  # weights at other addresses round otherwise
    assert_same(clip_vision.get_sd(), run.clip_vision.get_sd())
    assert_same(vae.get_sd(), run.vae.get_sd())


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, weight in wanted.items():
        assert torch.equal(found[name], weight), name


def test_bare_parameters_follow_the_model(run, exact):
    """The learned mixes are in no layer that ComfyUI casts; partly loaded models must compute the same."""
    import comfy.model_management

    run.model.detach()
    comfy.model_management.load_models_gpu([run.model])
    for module in run.model.model.modules():
        if hasattr(module, "comfy_cast_weights"):
            module.comfy_cast_weights = True  # what partial loading switches on
    try:
        assert relative(run.sample(), exact) <= 1e-6
    finally:
        for module in run.model.model.modules():
            if hasattr(module, "comfy_cast_weights"):
                del module.comfy_cast_weights


@pytest.mark.parametrize(("name", "tolerance"), [("fp16", 0.02), ("bf16", 0.1), ("fp8_e4m3fn", 0.6), ("default", 0.1)])
def test_weight_types(run, exact, pack, files, name, tolerance):
    dtype = pack.comfy_bridge.file_lists.WEIGHT_TYPES[name]
    model, *_ = pack.svd.loading.load_svd(*files, dtype)

    assert relative(run.sample(model), exact) <= tolerance
    if dtype:
        weights = model.model.diffusion_model.state_dict()
        assert weights["middle_block.1.proj_in.weight"].dtype == dtype
        assert weights["middle_block.1.extension.positions.weight"].dtype.itemsize > 1


def test_layers_made_for_dynamic_memory_load_the_same(run, exact, pack, files, monkeypatch):
    """Where ComfyUI's dynamic VRAM is on, linear layers have no weight until they are loaded."""
    import comfy.memory_management

    monkeypatch.setattr(comfy.memory_management, "aimdo_enabled", True, raising=False)
    model = pack.comfy_bridge.loading.make_model(
        pack.svd.model.SVDModel, pack.svd.loading.read_weights(*files).unet, "narrow", torch.float16
    )
    vae = pack.svd.vae.SVDVAE(pack.svd.loading.read_weights(*files).vae, "narrow")
    monkeypatch.undo()

    assert model.model.diffusion_model.state_dict()["middle_block.1.proj_in.weight"].dtype == torch.float16
    assert relative(run.sample(model), exact) <= 0.02
    assert torch.equal(vae.decode(torch.ones(2, 4, 16, 16)), run.vae.decode(torch.ones(2, 4, 16, 16)))


def test_attention_can_be_overridden(run):
    calls = []

    def count(attention, *args, **kwargs):
        calls.append(args[0].shape)
        return attention(*args, **kwargs)

    model = run.model.clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = count

    assert torch.equal(run.sample(model), run.sample())
    assert calls


def test_attention_over_very_many_rows_keeps_its_layout(pack, monkeypatch):
    """ComfyUI cuts large batches, and then returns the heads merged whatever it was asked for."""
    from comfy.ldm.modules import attention

    q, k, v = (torch.randn(6, 2, 5, 4) for _ in range(3))
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    monkeypatch.setattr(pack.comfy_bridge.network, "optimized_attention", attention.attention_pytorch)
    monkeypatch.setattr(attention, "SDP_BATCH_LIMIT", 2)

    torch.testing.assert_close(pack.comfy_bridge.network.HostAttention()(q, k, v), wanted)


def test_diffusion_model_wrappers_are_called(run):
    from comfy.patcher_extension import WrappersMP

    shapes = []

    def watch(executor, x, *args, **kwargs):
        shapes.append(tuple(x.shape))
        return executor(x, *args, **kwargs)

    model = run.model.clone()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", watch)
    run.sample(model, steps=1)

    assert shapes
    assert shapes[0][1] == 8


def test_stock_step_caching_works(run):
    from comfy_extras.nodes_easycache import EasyCacheNode

    cached = EasyCacheNode.execute(run.model, 3.0, 0.0, 1.0, False).result[0]
    exact = run.sample(steps=8)

    assert 0 < relative(run.sample(cached, steps=8), exact) < 1  # steps were skipped, and it is still that clip


def test_two_models_merge(run, exact, monkeypatch):
    from comfy_extras.nodes_model_merging import ModelMergeSimple

    weights = run.model.model.state_dict()
    with monkeypatch.context() as patch:  # the node asks for all weights once for each of them
        patch.setattr(run.model.model, "state_dict", lambda: weights)
        merged = ModelMergeSimple().merge(run.model, run.model.clone(), 0.5)[0]

    assert relative(run.sample(merged), exact) <= 1e-4


def test_previews_have_a_picture(run):
    import latent_preview
    from comfy.cli_args import LatentPreviewMethod

    run.pack.host.args.preview_method = LatentPreviewMethod.Latent2RGB
    previewer = latent_preview.get_previewer(torch.device("cpu"), run.model.model.latent_format)

    _, picture, _ = previewer.decode_latent_to_preview_image("JPEG", run.sample(steps=1))
    assert picture.size == (16, 16)


def test_controlnet_is_refused_in_words(run, pack):
    with pytest.raises(pack.errors.ExVideoError, match="ControlNet"):
        run.model.model.diffusion_model(torch.zeros(2, 8, 16, 16), torch.ones(2), control={})


def test_works_with_the_stock_conditioning(run):
    from comfy_extras.nodes_video_model import SVD_img2vid_Conditioning

    positive, negative, latent = SVD_img2vid_Conditioning().encode(
        run.clip_vision, run.image, run.vae, 128, 128, 6, 127, 30, 0.0
    )
    ours, run.positive, run.negative = (run.positive, run.negative), positive, negative
    result = run.sample(latent=latent)
    run.positive, run.negative = ours

    assert result.shape == (6, 4, 16, 16)


def test_memory_grows_with_the_clip_and_not_absurdly(run):
    small, large, largest = (run.model.memory_required([frames, 4, 64, 64]) for frames in (64, 128, 256))

    chunk = run.pack.comfy_bridge.low_memory.CHUNK_BYTES
    assert small < large < 2 * small  # a chunk has the same size for any clip that fills it
    channels = run.model.model.sizes.widths[0]
    hidden = 128 * 64 * 64 * channels * 4  # bytes of the first level's hidden states
    assert 3 < (largest - large) / hidden < 12
    assert largest < chunk + 2 * 8 * hidden
