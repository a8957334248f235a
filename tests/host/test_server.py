"""The server and its client, with ComfyUI's own nodes."""

import time

import pytest

from host.client import ExecutionError, RequestError
from host.errors import HostError
from host.server import Server

pytestmark = pytest.mark.comfyui


def video_prompt(width=64):
    return {
        "1": {"class_type": "EmptyImage", "inputs": {"width": width, "height": 64, "batch_size": 8, "color": 255}},
        "2": {"class_type": "CreateVideo", "inputs": {"images": ["1", 0], "fps": 8.0}},
        "3": {
            "class_type": "SaveVideo",
            "inputs": {"video": ["2", 0], "filename_prefix": "host", "format": "auto", "codec": "auto"},
        },
    }


@pytest.fixture(params=["comfyui", "oldest_comfyui"])
def any_comfyui(request):
    return request.getfixturevalue(request.param)


def test_server_imports_the_pack(any_comfyui):
    assert any_comfyui.server.failed_imports() == []


def test_prompt_runs_and_its_file_can_be_fetched(any_comfyui, tmp_path):
    run = any_comfyui.client.run(video_prompt())

    (file,) = run.files
    video = any_comfyui.client.download(file, tmp_path)
    assert video.read_bytes()[4:8] == b"ftyp"  # an MP4
    assert (any_comfyui.base / "output" / video.name).read_bytes() == video.read_bytes()


def test_progress_of_a_node_is_reported(comfyui):
    seen = []
    prompt = video_prompt() | {
        "4": {
            "class_type": "ColorTransfer",
            "inputs": {
                "image_target": ["1", 0],
                "image_ref": ["1", 0],
                "method": "reinhard_lab",
                "source_stats": "per_frame",
                "strength": 1.0,
            },
        }
    }
    prompt["2"]["inputs"]["images"] = ["4", 0]

    comfyui.client.run(prompt, on_progress=lambda *step: seen.append(step))

    assert seen
    assert seen == sorted(seen)
    assert {(node, steps) for node, _, steps in seen} == {("4", 8)}


def test_running_prompt_can_be_interrupted(comfyui):
    prompt = {"0": {"class_type": "EmptyImage", "inputs": {"width": 1024, "height": 1024, "batch_size": 1, "color": 1}}}
    for step in range(1, 200):
        inputs = {"image": [str(step - 1), 0], "blur_radius": 31, "sigma": 9.0}
        prompt[str(step)] = {"class_type": "ImageBlur", "inputs": inputs}
    prompt["200"] = {"class_type": "PreviewImage", "inputs": {"images": ["199", 0]}}

    prompt_id = comfyui.client.queue(prompt)
    while not comfyui.client.get("/queue")["queue_running"]:
        time.sleep(0.02)
    while comfyui.client.get("/queue")["queue_running"]:
        comfyui.client.interrupt()  # one that comes before the prompt has begun is lost
        time.sleep(0.2)

    run = comfyui.client.wait(prompt_id, timeout=60)
    assert run.status == "interrupted"
    assert run.files == []


def test_refused_prompt_says_what_is_wrong(any_comfyui):
    prompt = video_prompt()
    del prompt["2"]["inputs"]["images"]

    with pytest.raises(RequestError, match=r"node 2 \(CreateVideo\): Required input is missing - images") as refused:
        any_comfyui.client.run(prompt)
    assert refused.value.status == 400


def test_raising_node_is_named_with_its_message(comfyui):
    with pytest.raises(ExecutionError, match=r"SaveVideo \(node 3\)") as failed:
        comfyui.client.run(video_prompt(width=63))  # the codec takes even sizes only
    assert failed.value.run.status == "error"
    assert "nodes_video.py" in failed.value.run.traceback


def test_server_that_cannot_start_says_why_and_leaves_no_process(comfyui, tmp_path):
    server = Server(comfyui.server.python, comfyui.server.tree, tmp_path, arguments=["--no-such-option"])

    with pytest.raises(HostError, match="unrecognized arguments: --no-such-option"):
        server.start()
    assert not server.is_running


def test_starting_can_be_given_up(comfyui, tmp_path):
    server = Server(comfyui.server.python, comfyui.server.tree, tmp_path)

    with pytest.raises(HostError, match="did not come up"):
        server.start(timeout=0.1)
    assert not server.is_running
