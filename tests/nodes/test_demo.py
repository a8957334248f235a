"""The workflows on the embedded demo model: the given picture comes out, moving."""

import shutil

import numpy as np
import pytest
from in_comfyui import WORKFLOWS, change
from PIL import Image

from exvideo_core.video import read_video
from host.graph import nodes_of, read_graph, to_prompt

pytestmark = pytest.mark.comfyui

FRAMES = 32
DEMO = {
    "LoadImage": {"image": "astronaut.png"},
    "ExVideoSVDLoader": {"checkpoint": "demo svd", "extension": "demo 128 frames"},
    "ExVideoSVDConditioning": {"width": 128, "height": 128, "frames": FRAMES},
    "ExVideoSampler": {"steps": 8, "guidance_min": 1.0, "guidance_max": 1.0, "contrast": 1.0},
}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_moves_the_picture(path, comfyui, pack_root, tmp_path):
    picture = pack_root / "examples" / "astronaut.png"
    (comfyui.base / "input").mkdir(exist_ok=True)
    shutil.copy(picture, comfyui.base / "input")
    prompt = to_prompt(read_graph(path), comfyui.client.object_info())
    change(prompt, DEMO)

    ran = comfyui.client.run(prompt, timeout=600)

    assert len(ran.files) == len(nodes_of(prompt, "ExVideoSave"))
    wanted = np.asarray(Image.open(picture).convert("RGB").resize((128, 128), Image.Resampling.LANCZOS), float)
    for file in ran.files:
        frames = np.stack(list(read_video(comfyui.client.download(file, tmp_path)))).astype(float)
        assert frames.shape == (FRAMES, 128, 128, 3)
        likeness = [np.corrcoef(frame.ravel(), wanted.ravel())[0, 1] for frame in frames]
        assert likeness[0] >= 0.93
        assert min(likeness) >= 0.75
        assert likeness[-1] < likeness[0] - 0.02  # it has moved away from the picture
