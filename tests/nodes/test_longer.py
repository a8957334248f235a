"""Videos longer than the model's frames: no joint shows, on the embedded demo model."""

import shutil
from dataclasses import replace

import pytest
from in_comfyui import SVD_WORKFLOW, change

from exvideo_core.evaluation.measures import measure
from exvideo_core.video import load_frames
from host.graph import nodes_of
from run import DEMOS, PICTURE, demo_prompt

pytestmark = pytest.mark.comfyui

LONGER = SVD_WORKFLOW.with_name("exvideo_svd_longer.json")


@pytest.fixture
def prompt(comfyui):
    """The workflow on the demo model."""
    (comfyui.base / "input").mkdir(exist_ok=True)
    shutil.copy(PICTURE, comfyui.base / "input")
    return demo_prompt(replace(DEMOS["svd"], workflow=LONGER.stem), comfyui.client.object_info())


def made(comfyui, prompt, folder):
    """The video's frames [T, 3, H, W] in [-1, 1], and the first frame of each clip but the first."""
    lengths = [node["inputs"]["frames"] for node in nodes_of(prompt, "ExVideoSVDConditioning")]
    (file,) = comfyui.client.run(prompt, timeout=3000).files
    frames = load_frames(comfyui.client.download(file, folder)).movedim(-1, 1) * 2 - 1
    assert len(frames) == sum(lengths) - (len(lengths) - 1)
    starts = [lengths[0]]
    for length in lengths[1:-1]:
        starts.append(starts[-1] + length - 1)
    return frames, starts


def joints_and_others(frames, starts):
    """Mean absolute difference to the frame before: of the frames where clips start, and of all others."""
    difference = frames.diff(dim=0).abs().mean(dim=(1, 2, 3)).tolist()
    joints = [difference[start - 1] for start in starts]
    return joints, [each for i, each in enumerate(difference, 1) if i not in starts]


def test_joints_of_short_clips_do_not_show(comfyui, prompt, tmp_path):
    # so few frames go in larger steps
    change(prompt, {"ExVideoSVDConditioning": {"frames": 14, "fps": 15}, "ExVideoSampler": {"steps": 8}})

    joints, others = joints_and_others(*made(comfyui, prompt, tmp_path))

    assert len(joints) == 2
    assert min(others) <= min(joints)
    assert max(joints) <= max(others)


@pytest.mark.slow
def test_joints_of_256_frames_do_not_show(comfyui, prompt, tmp_path):
    """The numbers are those of docs/longer_videos.md."""
    frames, starts = made(comfyui, prompt, tmp_path)
    joints, others = joints_and_others(frames, starts)
    measures = measure(frames)

    assert (len(frames), starts) == (256, [86, 171])
    assert min(others) <= min(joints)
    assert max(joints) <= max(others)
    assert measures.acceleration < 1.5
    assert measures.loop > 2  # it goes on, and does not return
    assert measures.freeze == 0
    assert measures.drift < 0.15
