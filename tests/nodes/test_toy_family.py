"""A third model in ComfyUI: one line in the list of adapters, and the shared nodes work with it."""

import base64
import io
import sys
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from toy_family import TOY
from toy_family.network import new_weights, save_toy
from toy_family.pipeline import load_toy

from exvideo_core import registry


@pytest.fixture
def adapter(pack, monkeypatch):
    from toy_family.nodes import adapter_for

    families = sys.modules[pack.sampler.families.__name__]
    toy = adapter_for(pack)
    monkeypatch.setattr(registry, "FAMILIES", (*registry.FAMILIES, TOY))  # the one line of the core
    monkeypatch.setattr(families, "ADAPTERS", (*families.ADAPTERS, toy))  # and of the nodes
    return toy


@pytest.fixture
def weights(tmp_path):
    save_toy(tmp_path / "toy.safetensors", new_weights())
    return tmp_path / "toy.safetensors"


@pytest.fixture
def sent(monkeypatch):
    events = []
    instance = SimpleNamespace(
        client_id="page",
        send_sync=lambda event, content, sid: events.append((event, content)),
        send_progress_text=lambda text, node_id: events.append(("text", text)),
    )
    monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=instance)))
    return events


@torch.inference_mode()
def sampled(pack, adapter, weights, **changes):
    from toy_family.nodes import node

    nodes = node(pack, adapter)
    model, conditioning, latent = nodes.loader.execute(str(weights)).result
    options = {"seed": 3, "steps": 4, "guidance_min": 0.0, "guidance_max": 0.0, "denoise": 1.0} | changes
    result = nodes.sampler.execute(model, conditioning, conditioning, latent, normalize="off", contrast=1.0, **options)
    return result.result[0]["samples"]


def test_the_sampler_makes_the_clip_of_python(pack, adapter, weights):
    frames = (sampled(pack, adapter, weights, preview="off", resume=False).movedim(1, -1) + 1) / 2

    wanted = load_toy(weights)(num_frames=6, height=16, width=24, num_inference_steps=4, seed=3)
    torch.testing.assert_close(frames.clamp(0, 1), wanted, rtol=0, atol=1e-5)


def test_the_preview_has_all_frames_and_the_node_says_the_time(pack, adapter, weights, sent):
    sampled(pack, adapter, weights, preview="animated")

    content = [content for event, content in sent if event == "exvideo.preview"][-1]
    picture = Image.open(io.BytesIO(base64.b64decode(content["image"].partition(",")[2])))
    texts = [content for event, content in sent if event == "text"]
    assert (picture.n_frames, picture.size) == (6, (24, 16))
    assert texts[0].startswith("4 steps, about ")
    assert "4 steps in" in texts[-1]


def test_a_size_that_its_geometry_refuses_is_refused_before_the_run(pack, adapter, weights, monkeypatch):
    from toy_family.nodes import node

    nodes = node(pack, adapter)
    model, conditioning, latent = nodes.loader.execute(str(weights)).result
    latent = {"samples": latent["samples"][..., :7]}
    with pytest.raises(Exception, match="multiples of 2 and at least 8"):
        nodes.sampler.execute(
            model, conditioning, conditioning, latent, seed=0, steps=2, guidance_min=0.0, guidance_max=0.0, denoise=1.0,
            normalize="off", contrast=1.0,
        )  # fmt: skip


def test_save_writes_it(pack, adapter, weights, tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    frames = ((sampled(pack, adapter, weights, resume=False).movedim(1, -1) + 1) / 2).clamp(0, 1)
    save = pack.video.ExVideoSave.PREPARE_CLASS_CLONE(None)
    save.hidden = SimpleNamespace(prompt=None, extra_pnginfo=None)

    save.execute(frames, 8.0, "mp4, h264", "high", "toy")

    assert (tmp_path / "toy_00001_.mp4").stat().st_size > 0


def test_a_model_of_nobody_names_all_loaders(pack, adapter):
    model = SimpleNamespace(model=object())
    with pytest.raises(pack.errors.ExVideoError, match="Load Toy"):
        pack.sampler.families.adapter_of(model)
