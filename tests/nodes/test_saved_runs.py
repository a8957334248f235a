"""ExVideo Sampler goes on where a run was cut off, by ComfyUI's own solvers, with the same bits."""

import os
import shutil
import time

import pytest
import torch
from in_comfyui import Run, sampled
from safetensors.torch import load_file, save_file

STEPS = 5


class Cut(Exception):  # noqa: N818  nothing went wrong
    """What ends a run in these tests."""


@pytest.fixture
def run(pack, loaded):
    """Of SVD; shorter than that of other tests, for speed."""
    return Run(pack, *loaded, frames=3)


@pytest.fixture(autouse=True)
def folder(pack, monkeypatch, tmp_path):
    """Where the states lie; every step is saved."""
    saved_run = pack.comfy_bridge.resume.SavedRun
    monkeypatch.setitem(saved_run.__init__.__kwdefaults__, "interval", 0)
    monkeypatch.setitem(saved_run.write.__globals__, "_SHARE", 1e9)
    monkeypatch.setattr(pack.host, "unfinished_folder", lambda: tmp_path)
    return tmp_path


@pytest.fixture
def said(pack, monkeypatch):
    """What is shown on the node."""
    texts = []
    monkeypatch.setattr(pack.host, "show_text", lambda _node, text, **_: texts.append(text))
    return texts


def graph(**changes):
    """Of a sampler and a loader, as it was queued."""
    sampler = {"model": ["loader", 0], "seed": 3, "normalize": "auto", **changes}
    return {
        "loader": {"class_type": "Loader", "inputs": {"file": changes.pop("file", "a.safetensors")}},
        "sampler": {"class_type": "ExVideoSampler", "inputs": sampler},
    }


def sample(either, model=None, *, stop=None, steps=STEPS, prompt=True, latent=None, **options):
    """The latents, and the steps that were done."""
    done = []

    def watch(_plan):
        def on_step(step, _denoised):
            done.append(step)
            if step == stop:
                raise Cut

        return on_step

    latent = latent or either.latent
    run = {"steps": steps, "guidance": (2.0, 2.0), "denoise": 1.0, **options}
    given = {"run": run, "positive": either.positive, "negative": either.negative, "latent": latent}
    solver_of = either.pack.comfy_bridge.resume.Run(graph() if prompt else None, "sampler", given)
    samples = sampled(either, model, watch=watch, solver_of=solver_of, changed={"latent": latent}, **run)
    return samples, done


def stop_and_go_on(either, model=None, steps=STEPS, **options):
    """Stopped in two steps, the second after it went on; then to the end."""
    middle = steps // 2
    for stop in (middle - 1, middle):
        with pytest.raises(Cut):
            sample(either, model, stop=stop, steps=steps, **options)
    result, done = sample(either, model, steps=steps, **options)
    assert done == list(range(middle + 1, steps))
    return result


@pytest.fixture(params=["svd", "cogvideox"])
def either(request):
    """A model with its conditioning, of both kinds."""
    return request.getfixturevalue("run" if request.param == "svd" else "cog")


def test_a_run_that_keeps_its_state_is_the_stock_graph_to_the_last_bit(run, cog):
    svd, _ = sample(run, steps=4)
    ddim, _ = sample(cog, guidance=(7.0, 7.0), steps=4)

    assert torch.equal(svd, run.sample(steps=4))
    assert torch.equal(ddim, cog.sample(steps=4))


@pytest.mark.parametrize("stop", [0, 2, STEPS - 1])
def test_stopped_in_any_step_it_ends_at_the_same_bits(run, stop):
    with pytest.raises(Cut):
        sample(run, stop=stop)
    result, done = sample(run)

    assert torch.equal(result, run.sample(steps=STEPS))
    assert done == list(range(stop + 1, STEPS))


@pytest.mark.parametrize("method", ["ddim", "ddim trailing", "dpm++ 2m"])
def test_every_method_of_cogvideox_goes_on(cog, method):
    whole = cog.sample(steps=STEPS, guidance=(2.0, 2.0), method=method)

    assert torch.equal(stop_and_go_on(cog, method=method), whole)


def test_the_node_says_where_it_goes_on(run, said):
    with pytest.raises(Cut):
        sample(run, stop=2)
    assert not any("going on" in text for text in said)
    sample(run)

    assert f"resuming after step 3 of {STEPS}" in said


@pytest.mark.parametrize("interval", [0, 1000])  # where it failed is noted though it was not yet time for that
def test_a_run_that_failed_within_a_step_goes_on(interval, run, pack, monkeypatch):
    monkeypatch.setitem(pack.comfy_bridge.resume.SavedRun.__init__.__kwdefaults__, "interval", interval)
    network, calls = run.model.model.diffusion_model, []

    def fail(*_):
        calls.append(1)
        if len(calls) == 4:
            raise Cut

    hook = network.register_forward_pre_hook(fail)
    try:
        with pytest.raises(Cut):
            sample(run)
    finally:
        hook.remove()
    result, done = sample(run)

    assert done[0] > 0
    assert torch.equal(result, run.sample(steps=STEPS))


def test_with_step_reuse_it_goes_on(either):
    model = either.pack.speed.ExVideoSpeed.execute(either.model, 0.99, 2, 1, 1).result[0]
    whole, _ = sample(either, model, steps=10, prompt=False)

    assert torch.equal(stop_and_go_on(either, model, steps=10), whole)
    assert not torch.equal(whole, sample(either, steps=10, prompt=False)[0])  # something was predicted


def test_with_step_reuse_and_context_windows_it_goes_on(pack, loaded):
    from comfy_extras.nodes_context_windows import ContextWindowsManualNode

    run = Run(pack, *loaded, frames=6)

    model = run.pack.speed.ExVideoSpeed.execute(run.model, 0.99, 2, 1, 1).result[0]
    model = ContextWindowsManualNode.execute(
        model, 4, 2, "standard_static", 1, False, "pyramid", dim=0, freenoise=True
    ).result[0]
    whole, _ = sample(run, model, steps=8, prompt=False)

    assert torch.equal(stop_and_go_on(run, model, steps=8), whole)


def test_with_keyframes_it_goes_on(run):
    picture = torch.rand(128, 128, 3, generator=torch.Generator().manual_seed(6))
    latent = run.pack.svd.conditioning.start_latents(run.vae, run.size, keyframes={2: picture})

    assert torch.equal(stop_and_go_on(run, latent=latent), sample(run, prompt=False, latent=latent)[0])


def test_with_a_lora_and_in_small_pieces_it_goes_on(cog, cog_lora):
    model, _ = cog.pack.cogvideox.lora.apply(cog.model, cog_lora, 0.7)
    model = cog.pack.comfy_bridge.low_memory.saving(model)

    assert torch.equal(stop_and_go_on(cog, model, method="dpm++ 2m"), cog.sample(model, steps=STEPS,
        guidance=(2.0, 2.0), method="dpm++ 2m"))  # fmt: skip


def test_what_is_finished_is_not_computed_again(either):
    whole, _ = sample(either)
    again, done = sample(either)

    assert done == []
    assert torch.equal(again, whole)


# what is another run


def test_without_the_graph_nothing_is_kept(run, folder):
    sample(run, prompt=False)

    assert list(folder.iterdir()) == []


def test_with_easycache_nothing_is_kept(run, folder, said):
    from comfy_extras.nodes_easycache import EasyCacheNode

    sample(run, EasyCacheNode.execute(run.model, 0.2, 0.15, 0.95, False).result[0])

    assert list(folder.iterdir()) == []
    assert any("EasyCache" in text for text in said)


def test_other_weights_in_the_same_graph_are_another_run(run, pack, files, folder, tmp_path_factory):
    sample(run, steps=2)
    weights = load_file(files[0])
    name = next(name for name in weights if name.endswith("middle_block.1.proj_in.weight"))
    weights[name] += 0.1
    other_file = tmp_path_factory.mktemp("other") / "svd_xt.safetensors"
    save_file(weights, other_file)
    other, *_ = pack.svd.loading.load_svd(other_file, files[1], torch.float32)

    assert sample(run, other, steps=2)[1] == [0, 1]


def test_a_model_that_is_loaded_with_a_lora_is_the_same_run_as_before(cog, cog_lora):
    """ComfyUI writes LoRAs into the weights of what it loads."""
    model, _ = cog.pack.cogvideox.lora.apply(cog.model, cog_lora, 0.7)
    sample(cog, model, steps=2)

    assert sample(cog, model, steps=2)[1] == []
    assert sample(cog, cog.pack.cogvideox.lora.apply(cog.model, cog_lora, 0.8)[0], steps=2)[1] == [0, 1]
    assert sample(cog, steps=2)[1] == [0, 1]


def test_another_latent_or_conditioning_in_the_same_graph_is_another_run(run):
    sample(run, steps=2)
    mask = {**run.latent, "noise_mask": torch.ones(3, 1, 16, 16)}
    assert sample(run, steps=2, latent=mask)[1] == [0, 1]
    given = run.positive
    run.positive = [[embedding + 1e-6, told] for embedding, told in given]
    assert sample(run, steps=2)[1] == [0, 1]
    run.positive = given
    assert sample(run, steps=2)[1] == []


@pytest.mark.parametrize(
    ("change", "is_same"),
    [
        ({}, True),
        ({"seed": 4}, False),
        ({"file": "b.safetensors"}, False),
        ({"normalize": "off", "contrast": 2.0, "preview": "off", "keep_latents": True}, True),
        ({"model": ["loader", 1]}, False),
    ],
)
def test_a_graph_is_the_same_where_the_steps_are(pack, change, is_same):
    above = pack.comfy_bridge.resume.above
    renamed = {f"9:{name}": node for name, node in graph(**change).items()}
    link = renamed["9:sampler"]["inputs"]["model"]
    renamed["9:sampler"]["inputs"]["model"] = [f"9:{link[0]}", link[1]]
    renamed["save"] = {"class_type": "Save", "inputs": {"latent": ["9:sampler", 0]}}  # below, so it does not count

    assert (above(graph(), "sampler") == above(renamed, "9:sampler")) == is_same


@pytest.mark.parametrize("node_id", ["none", None])
def test_a_node_that_is_not_in_the_graph_is_not_known(pack, node_id):
    assert pack.comfy_bridge.resume.above(graph(), node_id) is None


# the folder


@pytest.fixture
def states(pack, folder):
    """Puts a state there: of a prompt, with so many of 9 steps done, so many seconds ago."""
    write = pack.comfy_bridge.resume.SavedRun.write.__globals__["write_weights"]

    def put(name, prompt, step, age):
        path = folder / f"{name}.safetensors"
        write(path, {"x": torch.zeros(1)}, {"prompt": prompt, "step": str(step), "steps": "9"})
        os.utime(path, (time.time() - age, time.time() - age))
        return path

    return put


def names(folder):
    return sorted(path.name.removesuffix(".safetensors") for path in folder.iterdir())


def test_the_four_newest_states_are_kept(pack, folder, states):
    for index in range(6):
        states(f"s{index}", "prompt", 1, age=index)
    pack.comfy_bridge.resume.make_room(folder / "s5.safetensors")

    assert names(folder) == ["s0", "s1", "s2", "s5"]


def test_a_state_from_the_future_counts_as_old(pack, folder, states):
    for index in range(4):
        states(f"s{index}", "prompt", 1, age=index)
    states("future", "prompt", 1, age=-100_000)
    pack.comfy_bridge.resume.make_room(folder / "own.safetensors")

    assert names(folder) == ["s0", "s1", "s2"]


def test_what_other_prompts_have_finished_goes_when_a_run_is_finished(pack, folder, states):
    states("other", "other", 9, age=1)
    states("paused", "other", 8, age=1)
    states("first_pass", "mine", 9, age=1)
    states("own", "mine", 9, age=0)
    (folder / "strange.safetensors").write_text("no state")
    pack.comfy_bridge.resume.forget_others(folder / "own.safetensors", {"prompt": "mine"})

    assert names(folder) == ["first_pass", "own", "paused", "strange"]


def test_half_files_of_the_dead_go(pack, folder):
    old, new = folder / ".a.safetensors.1.part", folder / ".b.safetensors.2.part"
    old.touch()
    new.touch()
    os.utime(old, (0, 0))
    pack.comfy_bridge.resume.make_room(folder / "own.safetensors")

    assert list(folder.iterdir()) == [new]


def test_a_folder_that_cannot_be_made_does_not_end_the_run(run, pack, folder, said, monkeypatch):
    (folder / "file").touch()
    monkeypatch.setattr(pack.host, "unfinished_folder", lambda: folder / "file" / "unfinished")
    result, _ = sample(run, steps=2)

    assert torch.equal(result, run.sample(steps=2))
    assert [text for text in said if "cannot save the finished steps" in text]


# kept latents


def test_kept_latents_are_what_the_stock_node_loads(pack, run, cog):
    import folder_paths

    from nodes import LoadLatent

    for samples in (run.sample(steps=1), cog.sample(steps=1)):
        told = pack.comfy_bridge.latent_file.keep(
            samples, {"1": {"class_type": "A", "inputs": {}}}, {"workflow": {"nodes": []}}
        )
        name = told.removeprefix("latents saved: ").removesuffix(" in the output folder")
        loaded = LoadLatent().load(f"{name} [output]")[0]["samples"]

        assert torch.equal(loaded, samples)
    shutil.rmtree(os.path.join(folder_paths.get_output_directory(), "latents"))


def test_latents_that_cannot_be_kept_do_not_end_the_run(pack, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pack.comfy_bridge.latent_file, "write_weights", refuse)

    assert "could not be saved: [Errno 28] No space left" in pack.comfy_bridge.latent_file.keep(
        torch.zeros(1), None, None
    )
