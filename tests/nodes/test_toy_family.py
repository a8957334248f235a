"""A third family joins the nodes by one line: its loader, ExVideo Sampler with preview and time left, and Save."""

import asyncio
import importlib
import sys
from types import SimpleNamespace

import pytest
import torch
from in_comfyui import relative
from toy_family import TOY
from toy_family.network import new_weights, save_toy
from toy_family.nodes import adapter_for
from toy_family.pipeline import load_toy

from exvideo_core import registry as core_registry

FILE = "toy.safetensors"


@pytest.fixture
def toy(pack, monkeypatch):
    """The pack with the toy's adapter, and the toy's file among its models."""
    registry = importlib.import_module("..exvideo_core.registry", pack.sampler.__package__)
    for each in (core_registry, registry):
        monkeypatch.setattr(each, "FAMILIES", (*each.FAMILIES, TOY))
    adapter = adapter_for(pack)
    monkeypatch.setattr(pack.families, "ADAPTERS", (*pack.families.ADAPTERS, adapter))
    path = pack.base / "models" / "diffusion_models" / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    save_toy(path, new_weights())
    yield SimpleNamespace(adapter=adapter, loader=adapter.nodes[0], path=path)
    path.unlink()


@pytest.fixture
def sent(monkeypatch):
    """Texts and previews that a page would get."""
    events = []
    instance = SimpleNamespace(
        client_id="page",
        send_sync=lambda event, content, sid: events.append((event, content)),
        send_progress_text=lambda text, node_id: events.append(("text", text)),
    )
    monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=instance)))
    return events


def sample(pack, model, latents, **options):
    """Latents that ExVideo Sampler makes as node 7."""
    hidden = SimpleNamespace(unique_id="7", prompt=None, extra_pnginfo=None)
    node = type("Sampler", (pack.sampler.ExVideoSampler,), {"hidden": hidden})
    conditioning = [[torch.zeros(1, 1, 4), {}]]
    settings = {"seed": 3, "steps": 4, "guidance_min": 0.0, "guidance_max": 0.0, "denoise": 1.0, **options}
    with torch.inference_mode():
        result = node.execute(
            model, conditioning, conditioning, {"samples": latents}, normalize="auto", contrast=0.0, **settings
        )
    return result.result[0]["samples"]


def test_the_pack_lists_its_loader_and_methods(pack, toy):
    extension = asyncio.run(importlib.import_module(pack.sampler.__package__).ExVideoExtension().get_node_list())

    assert toy.loader in extension
    assert "flow 2m" in pack.families.methods()
    assert pack.files.labels()["diffusion_models"][FILE] == "toy network, fp32"


def test_the_sampler_makes_the_clip_of_the_python_interface(pack, toy, sent, monkeypatch):
    monkeypatch.setattr(pack.comfy_bridge.estimates, "_INTERVAL", 0)
    model = toy.loader.execute(FILE).result[0]
    frames = load_toy(toy.path)(num_inference_steps=4, seed=3)

    found = sample(pack, model, torch.zeros(6, 3, 16, 16), preview="animated")

    assert relative(((found + 1) / 2).clamp(0, 1).movedim(1, -1), frames) <= 1e-5
    texts = [content for event, content in sent if event == "text"]
    previews = [content for event, content in sent if event == "exvideo.preview"]
    assert texts[0].startswith("4 steps, about ")
    assert "GB beside" in texts[0]
    assert any(text.startswith("step 3 of 4, about ") and "left" in text for text in texts)
    assert texts[-1].startswith("4 steps in ")
    assert (previews[-1]["frames"], previews[-1]["step"]) == (6, 4)


def test_its_other_method_presets_and_step_reuse_work(pack, toy):
    model, latents = toy.loader.execute(FILE).result[0], torch.zeros(6, 3, 16, 16)
    usual = sample(pack, model, latents)

    assert relative(sample(pack, model, latents, method="flow 2m"), usual) > 1e-4
    assert torch.equal(sample(pack, model, latents, preset="low memory"), usual)
    faster = pack.speed.ExVideoSpeed.execute(model, 0.05, 2, 2, 1).result[0]
    assert torch.equal(sample(pack, faster, latents), usual)  # the toy computes every step
    with pytest.raises(pack.errors.ExVideoError, match="the toy has no method 'ddim'"):
        sample(pack, model, latents, method="ddim")


def test_its_clip_is_saved(pack, toy, tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    latents = sample(pack, toy.loader.execute(FILE).result[0], torch.zeros(6, 3, 16, 16))
    hidden = SimpleNamespace(prompt=None, extra_pnginfo=None)
    save = type("Save", (pack.video.ExVideoSave,), {"hidden": hidden})

    save.execute(((latents + 1) / 2).clamp(0, 1).movedim(1, -1), 8.0, "mp4, h264", "high", "toy")

    assert (tmp_path / "toy_00001_.mp4").stat().st_size > 0


def test_without_its_line_it_is_unknown(pack, toy, monkeypatch):
    model = toy.loader.execute(FILE).result[0]
    monkeypatch.setattr(pack.families, "ADAPTERS", pack.families.ADAPTERS[:-1])

    with pytest.raises(pack.errors.ExVideoError, match="ToyModel, which ExVideo Sampler does not know"):
        sample(pack, model, torch.zeros(6, 3, 16, 16))
