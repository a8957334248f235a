"""Without the imageio-ffmpeg package: clips are made, and only files need it."""

import subprocess
import sys
from pathlib import Path

import pytest

from exvideo_core.errors import VideoError
from exvideo_core.video import ffmpeg

ROOT = Path(__file__).resolve().parents[3]
CLIP = """
import sys

sys.modules["imageio_ffmpeg"] = None

import torch

import exvideo_core
from exvideo_core.families.cogvideox.files import DEMO_TRANSFORMER, DEMO_VAE

pipeline = exvideo_core.load_cogvideox(DEMO_TRANSFORMER, vae=DEMO_VAE, device="cpu")
text = torch.zeros(1, 226, pipeline.transformer.config.text_dim)
size = {"num_frames": 9, "height": 32, "width": 32, "num_inference_steps": 1, "guidance_scale": 1.0}
print(list(pipeline(prompt_embeds=text, **size).frames.shape))
"""


@pytest.mark.full
def test_a_demo_model_makes_a_clip():
    done = subprocess.run([sys.executable, "-c", CLIP], cwd=ROOT, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[9, 32, 32, 3]"


def test_a_file_asks_for_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)

    with pytest.raises(VideoError, match=r"ffmpeg is missing\. Install it with: pip install imageio-ffmpeg"):
        ffmpeg.check_video(tmp_path / "clip.mp4")
