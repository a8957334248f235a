"""Saving a clip: what the node refuses beforehand, and what it writes."""

from fractions import Fraction
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

GRAPH = {"1": {"class_type": "ExVideoSave", "inputs": {"text": "一只猫 – déjà vu"}}}
WORKFLOW = {"nodes": [{"id": 1, "type": "ExVideoSave"}]}
CLIP = torch.rand(4, 32, 48, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def save(pack, tmp_path, monkeypatch):
    """Run the node as ComfyUI would; returns its output and the files that it wrote."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))

    def run(images=CLIP, fps=8.0, format="mp4, h264", quality="high", prefix="clip", **inputs):
        node = pack.video.ExVideoSave.PREPARE_CLASS_CLONE(None)
        node.hidden = SimpleNamespace(prompt=GRAPH, extra_pnginfo={"workflow": WORKFLOW})
        return node.execute(images, fps, format, quality, prefix, **inputs), sorted(tmp_path.rglob("*.*"))

    return run


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"format": "mp4, h264", "bit_depth": "10 bit"}, "hardly any browser"),
        ({"format": "gif, gif", "bit_depth": "10 bit"}, "256 colours"),
        ({"format": "mov, prores", "bit_depth": "8 bit"}, "always has 10 bits"),
        ({"format": "gif, gif", "fps": 60.0}, "at most 50"),
        ({"format": "gif, gif", "audio": None}, "no sound"),  # None: linked, and not known yet
        ({"format": "avi, divx"}, "mp4, h264"),
        ({"format": "mp4, h264", "bit_depth": "12 bit"}, "auto; 8 bit; 10 bit"),
        ({"format": "mp4, h264", "fps": 0.0}, "more than 0"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_runs(pack, inputs, message):
    assert message in pack.video.ExVideoSave.validate_inputs(**inputs)


@pytest.mark.parametrize("inputs", [{"format": "mp4, h264", "fps": None, "audio": None}, {"format": None}, {}])
def test_what_comes_through_a_link_is_not_refused_beforehand(pack, inputs):
    assert pack.video.ExVideoSave.validate_inputs(**inputs) is True


def test_a_poster_lies_beside_the_clip_and_holds_the_graph(save):
    _, files = save(format="mkv, vp9", poster=True)

    assert [file.name for file in files] == ["clip_00001_.mkv", "clip_00001_.png"]
    with Image.open(files[1]) as picture:
        assert picture.size == (48, 32)
        assert picture.text["workflow"] == '{"nodes": [{"id": 1, "type": "ExVideoSave"}]}'
        assert "\\u4e00" in picture.text["prompt"]
    assert [file.name for file in save()[1]][1:] == ["clip_00001_.png", "clip_00002_.mp4"]


def test_the_clip_goes_on_with_the_rate_that_was_written(save):
    output, _ = save(fps=29.97)

    assert output.result[0].get_frame_rate() == Fraction(30000, 1001)
