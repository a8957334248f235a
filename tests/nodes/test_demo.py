"""The workflows on the embedded demo models: the given picture comes out, moving; and what the sentence says."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from in_comfyui import SVD_WORKFLOW, change
from PIL import Image

from exvideo_core.video import load_frames, read_video
from host.graph import nodes_of
from run import DEMOS, PICTURE, PROMPT, demo_prompt
from tools.demo_models.cogvideox.measure import PROMPTS, look_at

pytestmark = pytest.mark.comfyui

SVD_FRAMES, COGVIDEOX_FRAMES = 32, 33  # fewer than the demos', for speed
SVD_WORKFLOWS = [SVD_WORKFLOW, SVD_WORKFLOW.with_name("exvideo_svd_upscale_1024.json")]


@pytest.mark.parametrize("path", SVD_WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_moves_the_picture(path, comfyui, tmp_path):
    (comfyui.base / "input").mkdir(exist_ok=True)
    shutil.copy(PICTURE, comfyui.base / "input")
    prompt = demo_prompt(replace(DEMOS["svd"], workflow=path.stem), comfyui.client.object_info())
    # so few frames go in larger steps
    change(prompt, {"ExVideoSVDConditioning": {"frames": SVD_FRAMES, "fps": 15}, "ExVideoSampler": {"steps": 8}})

    ran = comfyui.client.run(prompt, timeout=600)

    assert len(ran.files) == len(nodes_of(prompt, "ExVideoSave"))
    wanted = np.asarray(Image.open(PICTURE).convert("RGB").resize((128, 128), Image.Resampling.LANCZOS), float)
    for file in ran.files:
        frames = np.stack(list(read_video(comfyui.client.download(file, tmp_path)))).astype(float)
        assert frames.shape == (SVD_FRAMES, 128, 128, 3)
        likeness = [np.corrcoef(frame.ravel(), wanted.ravel())[0, 1] for frame in frames]
        assert likeness[0] >= 0.93
        assert min(likeness) >= 0.75
        assert likeness[-1] < likeness[0] - 0.05  # it has moved away from the picture


@pytest.mark.parametrize("words", PROMPTS[:2], ids=lambda words: words.prompt())
def test_workflow_shows_what_the_sentence_says(words, comfyui, tmp_path):
    demo = replace(DEMOS["cogvideox"], inputs={**DEMOS["cogvideox"].inputs, PROMPT: {"text": words.prompt()}})
    prompt = demo_prompt(demo, comfyui.client.object_info())
    change(prompt, {"ExVideoCogVideoXLatent": {"frames": COGVIDEOX_FRAMES}})

    (file,) = comfyui.client.run(prompt, timeout=600).files

    frames = load_frames(comfyui.client.download(file, tmp_path))
    assert frames.shape == (COGVIDEOX_FRAMES, 96, 96, 3)
    seen = look_at(frames, words)
    assert (seen.ground, seen.colour, seen.shape) == (True, True, True)
    assert seen.is_moving_rightly
