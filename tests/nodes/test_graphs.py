"""The nodes in a running ComfyUI, through its web interface's protocol, on narrow models."""

import copy
import json
import re
import shutil
import threading
import time

import numpy as np
import pytest
from in_comfyui import SVD_WORKFLOW, VIDEO_FRAMES, WORKFLOWS, place_files, small

from exvideo_core.families.svd.files import EXVIDEO_SVD
from exvideo_core.video import probe, read_video
from exvideo_core.video.tags_and_sound import read_tags
from exvideo_core.weights.safetensors_files import open_weights
from host.client import Client, ExecutionError, RequestError
from host.graph import nodes_of, read_graph, to_prompt
from host.validation import find_problems

pytestmark = pytest.mark.comfyui

# Frames of the videos that a workflow saves on the narrow models.
SAVED_FRAMES = {
    "exvideo_demo": [6, 9],
    "exvideo_svd_upscale_1024": [6, 6],
    "exvideo_svd_longer": [3 * 6 - 2],
    "exvideo_cogvideox_129f": [9],
    "exvideo_cogvideox_video_to_video": [9],
    "exvideo_interpolate_upscale": [2 * VIDEO_FRAMES - 1],
}


@pytest.fixture(scope="module")
def server(comfyui):
    place_files(comfyui.base, WORKFLOWS)
    return comfyui


@pytest.fixture(scope="module")
def info(server):
    return server.client.object_info()


@pytest.fixture
def prompt(info):
    """SVD's workflow, made small."""
    return small(SVD_WORKFLOW, info)


def inputs_of(prompt, kind):
    (node,) = nodes_of(prompt, kind)
    return node["inputs"]


def test_pack_is_imported(server):
    assert server.server.failed_imports() == []


def test_nodes_of_the_design_are_there(info):
    ours = {name: node for name, node in info.items() if name.startswith("ExVideo")}

    assert set(ours) >= {"ExVideoSVDLoader", "ExVideoSVDConditioning", "ExVideoSampler", "ExVideoSave"}
    assert all(node["category"].startswith("ExVideo/") for node in ours.values())
    assert info["ExVideoSVDLoader"]["output"] == ["MODEL", "CLIP_VISION", "VAE"]
    assert info["ExVideoSVDConditioning"]["output"] == ["CONDITIONING", "CONDITIONING", "LATENT"]


def test_only_weights_are_listed(server):
    (server.base / "models" / "exvideo" / "notes.txt").write_text("x")
    time.sleep(1.1)  # ComfyUI looks again when the folder's time has changed

    options = server.client.get("/object_info/ExVideoSVDLoader")["ExVideoSVDLoader"]["input"]["required"]["extension"]
    assert EXVIDEO_SVD.name in options[1]["options"]
    assert "notes.txt" not in options[1]["options"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_has_no_problems(path, info):
    assert find_problems(to_prompt(read_graph(path), info), info) == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_runs_and_its_videos_restore_the_graph(path, server, info, tmp_path):
    prompt, graph = small(path, info), read_graph(path)
    ran = run_with_graph(server.client, prompt, graph)

    videos = [server.client.download(file, tmp_path) for file in ran.files if file["filename"].endswith(".mp4")]
    assert sorted(probe(video).num_frames for video in videos) == SAVED_FRAMES.get(path.stem, [6])
    for video in videos:
        tags = read_tags(video)
        assert json.loads(tags["workflow"]) == graph
        assert json.loads(tags["prompt"]).keys() == prompt.keys()
        assert frames_of(video).std() > 1


def distance(video, other):
    return np.abs(video.astype(float) - other.astype(float)).mean()


def frames_of(video):
    return np.stack([np.asarray(frame) for frame in read_video(video)]).astype(float)


def run_with_graph(client, prompt, graph):
    """As the page does: it sends the graph along, for the saved file."""
    body = {"prompt": prompt, "extra_data": {"extra_pnginfo": {"workflow": graph}}}
    ran = client.wait(client.post("/prompt", body)["prompt_id"])
    assert ran.status == "success", ran.error
    return ran


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        ("ExVideoSVDConditioning", {"width": 100}, "nearest size is 128x128"),
        ("ExVideoSVDConditioning", {"height": 132}, "multiples of 8"),
        ("ExVideoSVDConditioning", {"frames": 1}, "smaller than min"),
        ("ExVideoSVDConditioning", {"keyframe_indices": "one"}, "0, 64, 127"),
        ("ExVideoSampler", {"denoise": 1.5}, "bigger than max"),
        ("ExVideoSVDLoader", {"checkpoint": "other.safetensors"}, "choose another file from the list"),
        ("ExVideoSave", {"filename_prefix": "../clip"}, "leads out of the output folder"),
    ],
)
def test_bad_values_are_refused_before_anything_runs(server, prompt, kind, values, words):
    inputs_of(prompt, kind).update(values)

    with pytest.raises(RequestError) as refused:
        server.client.queue(prompt)
    assert words.lower() in str(refused.value).lower()


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        ("ExVideoSVDConditioning", {"frames": 13}, "13 frames were asked for, but this extension was trained for 12"),
        ("ExVideoSVDConditioning", {"keyframe_indices": "3"}, "0 keyframes and 1 keyframe indices"),
        (
            "ExVideoSVDLoader",
            {"checkpoint": "extension.safetensors"},
            "is an ExVideo extension of SVD for 12 frames, not an SVD checkpoint",
        ),
        ("ExVideoSVDLoader", {"checkpoint": "broken.safetensors"}, "broken.safetensors"),
    ],
)
def test_what_only_the_run_can_know_is_said_in_words(server, prompt, kind, values, words):
    models = server.base / "models"
    shutil.copy(models / "exvideo" / EXVIDEO_SVD.name, models / "checkpoints" / "extension.safetensors")
    (models / "checkpoints" / "broken.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    time.sleep(1.1)
    inputs_of(prompt, kind).update(values)

    with pytest.raises(ExecutionError) as failed:
        server.client.run(prompt)
    assert words in failed.value.run.error


def test_replaced_file_is_loaded_again(server, prompt):
    file = server.base / "models" / "exvideo" / "second.safetensors"
    shutil.copy(server.base / "models" / "exvideo" / EXVIDEO_SVD.name, file)
    time.sleep(1.1)
    inputs_of(prompt, "ExVideoSVDLoader")["extension"] = file.name
    server.client.run(prompt)
    file.write_bytes(b"no longer weights")

    with pytest.raises(ExecutionError, match=r"second\.safetensors"):
        server.client.run(prompt)


def test_speed_leaves_steps_out(server, prompt):
    """The node between loader and sampler; what it did is in the server's log."""
    inputs = inputs_of(prompt, "ExVideoSampler")
    inputs["steps"] = 12
    settings = {"threshold": 0.9, "in_a_row": 2, "first_steps": 2, "last_steps": 1}
    prompt["200"] = {"class_type": "ExVideoSpeed", "inputs": {"model": inputs["model"], **settings}}
    inputs["model"] = ["200", 0]

    assert server.client.run(prompt).files
    (said,) = re.findall(r"step reuse: (\d+) of 12 steps predicted", server.server.read_log())
    assert int(said) > 0


def test_progress_is_reported_by_every_long_node(server, prompt):
    inputs_of(prompt, "ExVideoSampler")["seed"] = 77
    seen = {}
    server.client.run(prompt, on_progress=lambda node, done, total: seen.setdefault(prompt[node]["class_type"], total))

    assert seen["ExVideoSampler"] == 2


def test_cancel_stops_the_sampler_within_a_step(server, prompt):
    inputs_of(prompt, "ExVideoSampler").update(steps=900, seed=5)
    begun = threading.Event()

    def cancel():
        begun.wait(120)
        Client(server.url).interrupt()

    thread = threading.Thread(target=cancel)
    thread.start()
    start = time.monotonic()
    with pytest.raises(ExecutionError) as stopped:
        server.client.run(prompt, on_progress=lambda node, done, total: total == 900 and begun.set())
    thread.join()

    assert stopped.value.run.status == "interrupted"
    assert time.monotonic() - start < 100


@pytest.mark.parametrize("form", ["webm, vp9", "gif, gif", "mov, prores"])
def test_other_formats(server, prompt, form):
    inputs_of(prompt, "ExVideoSave").update(format=form, quality="low")

    (file,) = server.client.run(prompt).files
    assert file["filename"].endswith(f".{form.split(',')[0]}")
    assert file["subfolder"] == "exvideo"
    assert server.client.fetch(file)


def test_sound_goes_into_the_file(server, prompt, tmp_path):
    save = inputs_of(prompt, "ExVideoSave")
    prompt["100"] = {"class_type": "EmptyAudio", "inputs": {"duration": 1.0, "sample_rate": 44100, "channels": 2}}
    save.update(audio=["100", 0], filename_prefix="exvideo/sound")

    (file,) = server.client.run(prompt).files
    assert b"mp4a" in server.client.download(file, tmp_path).read_bytes()


def test_video_output_goes_on_to_stock_nodes(server, prompt):
    (save_id,) = (node_id for node_id, node in prompt.items() if node["class_type"] == "ExVideoSave")
    inputs = {"video": [save_id, 0], "filename_prefix": "again", "format": "auto", "codec": "auto"}
    prompt["100"] = {"class_type": "SaveVideo", "inputs": inputs}

    assert len(server.client.run(prompt).files) == 2


def test_saved_checkpoint_loads_with_its_extension(server, prompt, tmp_path):
    """ImageOnlyCheckpointSave writes to output/checkpoints, which ComfyUI lists among the checkpoints."""
    (loader,) = (node_id for node_id, node in prompt.items() if node["class_type"] == "ExVideoSVDLoader")
    inputs = {
        "model": [loader, 0],
        "clip_vision": [loader, 1],
        "vae": [loader, 2],
        "filename_prefix": "checkpoints/merged",
    }
    save = {"100": {"class_type": "ImageOnlyCheckpointSave", "inputs": inputs}, loader: copy.deepcopy(prompt[loader])}
    server.client.run(save)
    time.sleep(1.1)
    (saved,) = (server.base / "output" / "checkpoints").glob("merged*.safetensors")

    assert "model.diffusion_model.middle_block.1.extension.positions.weight" in open_weights(saved).shapes
    first = server.client.download(server.client.run(prompt).files[0], tmp_path)
    inputs_of(prompt, "ExVideoSVDLoader").update(checkpoint=saved.name, extension="none")
    inputs_of(prompt, "ExVideoSave")["filename_prefix"] = "exvideo/merged"
    second = server.client.download(server.client.run(prompt).files[0], tmp_path)
    # not bit by bit: weights at other addresses round otherwise, and of such noisy frames the codec makes much of it
    assert distance(frames_of(first), frames_of(second)) < 0.2 * distance(frames_of(first), frames_of(first)[::-1])
