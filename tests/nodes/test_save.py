"""Saving a clip: what the node refuses beforehand, and what it writes."""

from fractions import Fraction
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

GRAPH = {"1": {"class_type": "ExVideoSave", "inputs": {"text": "一只猫 déjà vu"}}}
WORKFLOW = {"nodes": [{"id": 1, "type": "ExVideoSave"}]}
CLIP = torch.rand(4, 32, 48, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def save(pack, tmp_path, monkeypatch):
    """Run the node as ComfyUI would; returns its output and the files that it wrote."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))

    def run(images=CLIP, fps=8.0, kind="mp4, h264", quality="high", prefix="clip", **inputs):
        node = pack.video.ExVideoSave.PREPARE_CLASS_CLONE(None)
        node.hidden = SimpleNamespace(prompt=GRAPH, extra_pnginfo={"workflow": WORKFLOW})
        return node.execute(images, fps, kind, quality, prefix, **inputs), sorted(tmp_path.rglob("*.*"))

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
    _, files = save(kind="mkv, vp9", poster=True)

    assert [file.name for file in files] == ["clip_00001_.mkv", "clip_00001_.png"]
    with Image.open(files[1]) as picture:
        assert picture.size == (48, 32)
        assert picture.text["workflow"] == '{"nodes": [{"id": 1, "type": "ExVideoSave"}]}'
        assert "\\u4e00" in picture.text["prompt"]
    assert [file.name for file in save()[1]][1:] == ["clip_00001_.png", "clip_00002_.mp4"]


@pytest.fixture
def load(tmp_path, monkeypatch):
    """ComfyUI's own LoadVideo and GetVideoComponents on a file in its input folder: frames, sound, rate, bits."""
    import folder_paths
    from comfy_extras.nodes_video import GetVideoComponents, LoadVideo

    def run(path):
        monkeypatch.setattr(folder_paths, "input_directory", str(path.parent))
        (video,) = LoadVideo.execute(path.name).result
        images, audio, fps, *_ = GetVideoComponents.execute(video).result
        return images, audio, fps, video

    return run


def test_every_video_loads_back_with_comfyuis_own_node(pack, save, load):
    sound = {"waveform": torch.zeros(1, 2, 44100), "sample_rate": 44100}
    for kind, (suffix, _) in pack.host.VIDEO_FORMATS.items():
        has_sound = suffix not in (".gif", ".webp")
        if suffix == ".webp":
            continue  # a picture for ComfyUI
        _, files = save(kind=kind, audio=sound if has_sound else None, prefix=kind, poster=True)

        images, audio, fps, _ = load(
            next(file for file in files if file.name.startswith(kind) and file.suffix == suffix)
        )

        assert images.shape == (4, 32, 48, 3), kind
        assert fps == pytest.approx(8, abs=0.4 if suffix == ".gif" else 0.001), kind  # gif: 0.12 and 0.13 s
        assert not has_sound or audio["waveform"].shape[2] == pytest.approx(22050, abs=2100), kind


def test_ten_bits_reach_comfyuis_own_node(save, load):
    ramp = torch.linspace(0, 1, 1280).reshape(1, 1, -1, 1).expand(1, 32, -1, 3)

    images, _, _, video = load(save(ramp, kind="webm, vp9", quality="best", bit_depth="10 bit")[1][0])

    assert video.get_bit_depth() == 10
    assert len(images[0, 16, :, 0].unique()) > 500


def test_transparency_is_left_out(save, load):
    clip = torch.cat([torch.full((2, 32, 48, 3), 0.5), torch.zeros(2, 32, 48, 1)], dim=-1)

    images, *_ = load(save(clip)[1][0])

    assert (images - 0.5).abs().max() < 0.02


@pytest.mark.parametrize("kind", ["mp4, h264", "webp, webp", "webm, vp9"])
def test_no_graph_is_written_where_people_want_none(pack, save, kind, monkeypatch):
    monkeypatch.setattr(pack.host.args, "disable_metadata", True)

    for file in save(kind=kind, poster=True)[1]:
        assert b"class_type" not in file.read_bytes()
    monkeypatch.setattr(pack.host.args, "disable_metadata", False)
    assert b"class_type" in save(kind=kind, prefix="with")[1][-1].read_bytes()


def test_the_clip_goes_on_with_the_rate_that_was_written(save):
    output, _ = save(fps=29.97)

    assert output.result[0].get_frame_rate() == Fraction(30000, 1001)
