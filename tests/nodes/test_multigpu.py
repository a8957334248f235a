"""ComfyUI's multi-GPU splitter on our models, with two devices that are both the CPU."""

import threading

import pytest
import torch
from in_comfyui import CogRun, Run, relative
from rounding import FACTOR

FIRST, SECOND = torch.device("cpu"), torch.device("cpu:0")  # two, to all who compare them


@pytest.fixture
def split(pack, monkeypatch):
    """What the node MultiGPU CFG Split makes of a model."""
    from comfy import model_management

    nodes = pytest.importorskip("comfy_extras.nodes_multigpu", reason="this ComfyUI has no multi-GPU splitter")
    monkeypatch.setattr(model_management, "get_all_torch_devices", lambda exclude_current=False: [FIRST, SECOND])
    yield lambda model: nodes.MultiGPUCFGSplitNode.execute(model, 2).result[0]
    model_management.unload_all_models()
    model_management.current_loaded_models.clear()


def clone_of(model):
    (clone,) = model.get_additional_models_with_key("multigpu")
    return clone


@pytest.fixture(params=["svd", "cogvideox"])
def either(request):
    """A model with its conditioning, of both kinds."""
    return request.getfixturevalue("run" if request.param == "svd" else "cog")


def test_the_clone_is_a_model_of_its_own(split, either):
    model = split(either.model)
    clone = clone_of(model)

    assert clone.load_device == SECOND
    assert clone.model is not model.model
    ours, theirs = (patcher.model.diffusion_model.state_dict() for patcher in (model, clone))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert ours.keys() == theirs.keys()
    assert clone.model.diffusion_model is not model.model.diffusion_model


@pytest.fixture
def passes(monkeypatch):
    """Thread and network of every forward pass."""
    from comfy import model_base

    seen, original = [], model_base.BaseModel.apply_model

    def watch(self, *args, **options):
        seen.append((threading.current_thread(), self))
        return original(self, *args, **options)

    monkeypatch.setattr(model_base.BaseModel, "apply_model", watch)
    return seen


def rounding(run, double, patched=lambda model: model):
    """How far float32 is from float64.

    CogVideoX's first level is 4500 times its clip, so there the last bit of a few numbers decides, which depends on the
    noise: the largest of several seeds is taken.
    """
    seeds = range(8) if isinstance(run, CogRun) else range(1)
    ours, exact = patched(run.model), patched(double.model)
    return max(relative(run.sample(ours, seed=seed), run.sample(exact, seed=seed)) for seed in seeds)


def test_a_split_run_is_the_run(split, either, passes, in_float64):
    near = FACTOR * rounding(either, in_float64(either))
    model = split(either.model)
    wanted = either.sample()
    passes.clear()
    found = either.sample(model)

    assert relative(found, wanted) <= near  # unsplit, both branches are one batch
    assert {network for _, network in passes} == {model.model, clone_of(model).model}
    assert len({thread for thread, _ in passes}) == 2


def test_a_second_run_uses_the_same_clone(split, either, passes):
    model = split(either.model)
    first = either.sample(model)

    assert torch.equal(either.sample(split(either.model)), first)
    assert len({network for _, network in passes}) == 2


def test_a_lora_is_on_both(pack, split, cog, cog_lora, in_float64):
    def with_lora(model):
        return pack.cogvideox.lora.apply(model, cog_lora, 1.0)[0]

    near = FACTOR * rounding(cog, in_float64(cog), with_lora)
    wanted = cog.sample(with_lora(cog.model))

    assert relative(cog.sample(split(with_lora(cog.model))), wanted) <= near
    assert relative(cog.sample(with_lora(split(cog.model))), wanted) <= near
    assert relative(cog.sample(), wanted) > 1e-2


def test_guidance_by_frame_and_context_windows_split(pack, loaded, split, in_float64):
    from comfy_extras.nodes_context_windows import ContextWindowsManualNode

    run = Run(pack, *loaded, frames=12)
    options = {"context_schedule": "standard_static", "fuse_method": "pyramid", "freenoise": False, "dim": 0}
    options |= {"context_stride": 1, "closed_loop": False}
    windowed, exact = (
        ContextWindowsManualNode.execute(model, 8, 4, **options).result[0]
        for model in (run.model, in_float64(run).model)
    )
    wanted, apart, exactly = (
        run.sample(model, guidance=(1.0, 3.0), steps=2) for model in (windowed, split(windowed), exact)
    )
    near = FACTOR * relative(wanted, exactly)

    assert relative(apart, wanted) <= near


def test_attention_is_told_the_options_of_its_own_thread(pack):
    attention, meeting, told = pack.comfy_bridge.network.HostAttention(), threading.Barrier(2, timeout=20), {}

    def attend_as(name):
        def override(attend, *args, **options):
            meeting.wait()
            told[name] = options["transformer_options"]["name"]
            return attend(*args, **options)

        with pack.comfy_bridge.network.running_with({"name": name, "optimized_attention_override": override}):
            meeting.wait()  # both have set their options
            attention(*torch.randn(3, 1, 2, 5, 4))

    threads = [threading.Thread(target=attend_as, args=(name,)) for name in ("first", "second")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert told == {"first": "first", "second": "second"}


def test_an_interrupted_split_run_stops_and_can_be_repeated(split, cog):
    from comfy import model_management

    model = split(cog.model)
    wanted = cog.sample(model)
    model_management.interrupt_current_processing(True)
    with pytest.raises(model_management.InterruptProcessingException):
        cog.sample(model)

    assert torch.equal(cog.sample(model), wanted)
    assert not [thread for thread in threading.enumerate() if "_worker_loop" in thread.name]
