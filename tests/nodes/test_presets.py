"""Presets of ExVideo Sampler: what each sets, that it says so, and what it costs."""

import logging

import pytest
import torch
from in_comfyui import relative

from exvideo_core.estimate.counting import Elsewhere, count
from exvideo_core.families.cogvideox.config import TransformerConfig
from exvideo_core.families.cogvideox.transformer import CogVideoXTransformer
from exvideo_core.families.svd.config import UNetConfig
from exvideo_core.families.svd.unet import SVDUNet


@pytest.fixture(params=["svd", "cogvideox"])
def either(request):
    """A run of one of the two models."""
    return request.getfixturevalue({"svd": "run", "cogvideox": "cog"}[request.param])


@pytest.fixture
def presets(pack):
    return pack.comfy_bridge.presets


def with_speed(either, threshold=0.2):
    return either.pack.speed.ExVideoSpeed.execute(either.model, threshold, 2, 2, 1).result[0]


def node(either, preset, model=None, steps=3, preview="off"):
    """What the node itself makes."""
    execute = either.pack.sampler.ExVideoSampler.execute
    options = {"seed": 3, "steps": steps, "guidance_min": 0.0, "guidance_max": 0.0, "denoise": 1.0}
    options |= {"normalize": "off", "contrast": 1.0, "preset": preset, "preview": preview}
    with torch.inference_mode():
        latent = execute(model or either.model, either.positive, either.negative, either.latent, **options).result[0]
    return latent["samples"]


@pytest.fixture
def node_id(pack, monkeypatch):
    """A node that is run without a server has no id."""
    monkeypatch.setattr(
        pack.sampler.ExVideoSampler,
        "hidden",
        type("Hidden", (), dict.fromkeys(("unique_id", "prompt", "extra_pnginfo"))),
    )


def test_as_set_changes_nothing(either, presets):
    preset = presets.PRESETS["as set"]

    assert presets.prepared(either.model, preset) is either.model
    assert presets.summary("as set", preset, either.model) == ""


def test_quality_computes_every_step_behind_exvideo_speed(either, presets, caplog):
    caplog.set_level(logging.INFO)
    preset, faster = presets.PRESETS["quality"], with_speed(either)
    exact = presets.prepared(faster, preset)

    assert "50 steps, every step computed, ExVideo Speed is off" in presets.summary("quality", preset, faster)
    assert torch.equal(either.sample(exact), either.sample())
    assert "step reuse" not in caplog.text
    either.sample(faster)
    assert "step reuse" in caplog.text  # the MODEL itself is as it was


def test_fast_takes_its_steps_and_predicts_some(run, node_id, caplog):
    caplog.set_level(logging.INFO)
    node(run, "fast", steps=60)

    (line,) = [line for line in caplog.messages if "steps predicted" in line]
    assert "of 25 steps predicted" in line
    assert " 0 of" not in line
    assert "preset fast: 25 steps, step reuse 0.08" in caplog.text


def test_fast_keeps_what_exvideo_speed_has(either, presets):
    preset, faster = presets.PRESETS["fast"], with_speed(either, 0.2)

    assert presets.prepared(faster, preset) is faster
    assert "step reuse 0.2 as ExVideo Speed has it" in presets.summary("fast", preset, faster)


def test_low_memory_makes_the_same_clip_and_asks_for_all_memory(either, node_id, monkeypatch):
    import comfy.model_management

    load, asked = comfy.model_management.load_models_gpu, []

    def noted(models, memory_required=0, **options):
        asked.append(memory_required)
        return load(models, memory_required=memory_required, **options)

    monkeypatch.setattr(comfy.model_management, "load_models_gpu", noted)
    saving, as_set = node(either, "low memory"), node(either, "as set")

    assert relative(saving, as_set) < 1e-5
    assert asked[0] >= 1e20 > asked[-1]  # so no weights stay on a card; and the MODEL itself is as it was


def test_low_memory_remembers_steps_in_main_memory(either, presets, pack, monkeypatch):
    rooms = []

    class Noted(pack.comfy_bridge.step_reuse.StepCache):
        def __init__(self, reuse, steps, free):
            rooms.append(free(torch.device("cpu")))
            super().__init__(reuse, steps, free)

    monkeypatch.setattr(pack.comfy_bridge.step_reuse, "StepCache", Noted)
    model = with_speed(either)
    either.sample(presets.prepared(model, presets.PRESETS["low memory"]))
    either.sample(model)

    assert rooms[0] == 0 < rooms[1]


@pytest.fixture
def on_a_card(pack, monkeypatch):
    """A large one, where nothing would wait unless asked."""
    monkeypatch.setattr(pack.svd.model.model_management, "get_total_memory", lambda _: 48e9)
    monkeypatch.setattr(pack.svd.model.model_management, "is_device_cpu", lambda _: False)


def saving_options(pack):
    return {pack.comfy_bridge.low_memory._NAME: True}


def test_low_memory_lowers_svds_peak_and_knows_it(pack, on_a_card):
    sizes, options = UNetConfig(extension_frames=128), saving_options(pack)
    model = pack.svd.model.SVDModel(pack.svd.model.SVDModelConfig(sizes, torch.float16, None), device="meta")
    with torch.device("meta"):
        unet = SVDUNet(sizes).half()
        x, context = torch.empty(128, 8, 64, 64).half(), torch.empty(1, 1, 1024).half()
        inputs = x, torch.empty(1), context, torch.empty(1, 3)
        unet.offload_skip, unet.chunk_bytes = Elsewhere, pack.comfy_bridge.low_memory.chunk_bytes(options)
        least = count(lambda: unet(*inputs)).peak

    assert pack.svd.model.offloads_skips(sizes, (128, 64, 64), torch.float16, torch.device("meta"), options)
    assert least < 0.6 * model.count_call([128, 4, 64, 64]).peak
    assert 0.95 * least <= model.count_call([128, 4, 64, 64], options).peak <= 1.3 * least


def test_low_memory_lowers_cogvideox_peak_and_knows_it(pack):
    sizes, options = TransformerConfig(layers=2), saving_options(pack)
    adapter = pack.cogvideox.model
    model = adapter.CogVideoXModel(adapter.CogVideoXModelConfig(sizes, torch.float16, None), device="meta")
    with torch.device("meta"):
        transformer = CogVideoXTransformer(sizes).half()
        inputs = torch.empty(1, 16, 33, 60, 90).half(), torch.empty(1), torch.empty(1, 226, sizes.text_dim).half()
        whole = count(lambda: transformer(*inputs)).peak
        transformer.chunk_bytes = pack.comfy_bridge.low_memory.chunk_bytes(options)
        least = count(lambda: transformer(*inputs)).peak

    assert least < 0.85 * whole
    assert 0.95 * least <= model.count_call([1, 16, 33, 60, 90], options).peak <= 1.3 * least


def test_pieces_of_one_run_are_not_those_of_the_next(either, presets):
    network = either.model.model.diffusion_model
    before = network.chunk_bytes
    either.sample(presets.prepared(either.model, presets.PRESETS["low memory"]), steps=1)
    assert network.chunk_bytes < before
    either.sample(steps=1)

    assert network.chunk_bytes == before
