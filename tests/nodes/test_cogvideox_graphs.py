"""CogVideoX's nodes in a running ComfyUI, through its web interface's protocol, on a narrow model."""

import shutil
import time

import numpy as np
import pytest
from in_comfyui import cogvideox_prompt, place_cogvideox_files
from PIL import Image

from exvideo_core.video import probe, read_video
from host.client import ExecutionError, RequestError

pytestmark = pytest.mark.comfyui


@pytest.fixture(scope="module")
def server(comfyui):
    place_cogvideox_files(comfyui.base)
    time.sleep(1.1)  # ComfyUI looks again when a folder's time has changed
    return comfyui


@pytest.fixture
def prompt():
    return cogvideox_prompt()


def frames_of(server, ran, folder):
    video = server.client.download(ran.files[0], folder)
    assert probe(video).num_frames == 17
    return np.stack([np.asarray(frame) for frame in read_video(video)]).astype(float)


def pictures_of(server, ran, folder):
    assert len(ran.files) == 17
    return np.stack([np.asarray(Image.open(server.client.download(file, folder)), float) for file in ran.files])


def test_nodes_are_there(server):
    info = server.client.object_info()

    assert info["ExVideoCogVideoXLoader"]["output"] == ["MODEL", "CLIP", "VAE"]
    assert info["ExVideoLoRAApply"]["output"] == ["MODEL", "STRING"]
    assert info["ExVideoCogVideoXLatent"]["output"] == ["LATENT"]


def test_whole_graph_makes_a_video_and_reports_the_lora(server, prompt, tmp_path):
    prompt["text"] = {"class_type": "PreviewAny", "inputs": {"source": ["lora", 1]}}

    ran = server.client.run(prompt)

    assert frames_of(server, ran, tmp_path).std() > 1
    assert "16 tensors of rank 2 applied to 8 weights at strength 1" in str(ran.outputs["text"])


def test_stock_ksampler_makes_the_same_video(server, prompt, tmp_path):
    # its noise levels differ in the last digit; pictures, as codecs make more of what one grey level differs by
    prompt["save"] = {"class_type": "SaveImage", "inputs": {"images": ["decode", 0], "filename_prefix": "same/frame"}}
    ours = pictures_of(server, server.client.run(prompt), tmp_path)
    wires = {name: prompt["sample"]["inputs"][name] for name in ("model", "positive", "negative", "seed", "steps")}
    settings = {"cfg": 7.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    prompt["sample"] = {"class_type": "KSampler", "inputs": wires | settings | {"latent_image": ["latent", 0]}}
    theirs = pictures_of(server, server.client.run(prompt), tmp_path)

    difference = np.abs(theirs - ours)
    assert difference.max() <= 1  # where truncation falls on the other side
    assert difference.mean() < 0.01


def test_init_video_is_varied(server, prompt, tmp_path):
    prompt["noise"] = {
        "class_type": "EmptyImage",
        "inputs": {"width": 64, "height": 64, "batch_size": 17, "color": 255},
    }
    prompt["latent"]["inputs"] |= {"vae": ["load", 2], "init_video": ["noise", 0]}
    prompt["sample"]["inputs"] |= {"denoise": 0.3, "method": "ddim trailing"}

    assert frames_of(server, server.client.run(prompt), tmp_path).shape == (17, 32, 48, 3)


@pytest.mark.parametrize(
    ("node", "values", "words"),
    [
        ("latent", {"frames": 128}, "nearest are 121 and 129"),
        ("latent", {"width": 50}, "nearest size is 48x32"),
        ("sample", {"method": "heun"}, "not in list"),
        ("lora", {"lora": "other.safetensors"}, "put it there and press r"),
    ],
)
def test_bad_values_are_refused_before_anything_runs(server, prompt, node, values, words):
    prompt[node]["inputs"].update(values)

    with pytest.raises(RequestError) as refused:
        server.client.queue(prompt)
    assert words in str(refused.value).lower()


@pytest.mark.parametrize(
    ("node", "values", "words"),
    [
        ("sample", {"denoise": 0.5}, "the latent is empty"),
        ("sample", {"guidance_min": 2.0, "guidance_max": 7.0}, "one guidance for all frames"),
        ("load", {"vae": "wrong.safetensors"}, "wrong.safetensors is a CogVideoX text-to-video transformer"),
    ],
)
def test_what_only_the_run_can_know_is_said_in_words(server, prompt, node, values, words):
    models = server.base / "models"
    shutil.copy(models / "diffusion_models" / "cogvideox_transformer.safetensors", models / "vae" / "wrong.safetensors")
    time.sleep(1.1)
    prompt[node]["inputs"].update(values)

    with pytest.raises(ExecutionError) as failed:
        server.client.run(prompt)
    assert words in failed.value.run.error
