"""What is too large or too odd for a repository: made here, and refused soon, in little memory, and without a trace."""

import json
import os
import socket
import struct
import sys
import threading
import zlib
from functools import partial

import pytest

if sys.platform == "win32":
    pytest.skip("pipes, devices and the limits of time and memory are Unix's", allow_module_level=True)

import torch
from PIL import Image
from safetensors.torch import save_file

from exvideo_core.cli.inspect import inspect
from exvideo_core.errors import CheckpointError, ExVideoError, VideoError
from exvideo_core.families.cogvideox.files import COGVIDEOX_VAE
from exvideo_core.hub.sources import announce
from exvideo_core.registry import training_recipes
from exvideo_core.training import config
from exvideo_core.training.data.listing import list_videos
from exvideo_core.training.data.videos import examine
from exvideo_core.video import load_frames, read_video, save_video
from exvideo_core.video.pictures import read_picture
from exvideo_core.weights.safetensors_files import open_file, open_weights
from exvideo_core.weights.write import write_weights

from .answers import answering
from .guard import guarded
from .limits import limited
from .record_corpus import A, packed

read_config = partial(config.read_config, recipes=training_recipes())


@pytest.fixture(autouse=True)
def imported(tmp_path):
    """What readers import late is no concern of the limits."""
    save_video(torch.zeros(2, 16, 16, 3), tmp_path / "sound.mp4")
    examine(tmp_path / "sound.mp4")
    next(read_video(tmp_path / "sound.mp4"))
    for recipe in training_recipes().values():
        recipe()


def refusal(read, *arguments, seconds=2.0, megabytes=300):
    with pytest.raises(ExVideoError) as caught, limited(seconds, megabytes), guarded():
        read(*arguments)
    assert 10 < len(str(caught.value)) < 2000
    return str(caught.value)


# weights


def test_millions_of_tensors_are_refused_before_they_fill_the_memory(tmp_path):
    entry = b'"%07d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},'
    path = tmp_path / "a.safetensors"
    path.write_bytes(packed(b"{" + b"".join(entry % i for i in range(1_000_000))[:-1] + b"}", b""))

    assert "is not a safetensors file" in refusal(open_file, path)


def test_tensors_beyond_any_model_within_the_longest_header_are_refused(tmp_path):
    entry = b'"%d":{"dtype":"F32","shape":[],"data_offsets":[0,4]},'
    path = tmp_path / "a.safetensors"
    path.write_bytes(packed(b"{" + b"".join(entry % i for i in range(280_000))[:-1] + b"}"))

    assert "names 280,000 tensors" in refusal(open_file, path, seconds=4.0, megabytes=900)


def test_as_many_tensors_as_any_model_has_are_read(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({f"model.layers.{i}.mlp.experts.weight": torch.zeros(1) for i in range(20_000)}, path)

    with limited(seconds=6.0):
        assert "20,000" in inspect(path)


def test_notes_of_a_trainer_of_some_megabytes_are_read(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.zeros(1)}, path, {"ss_tag_frequency": "x" * 8_000_000})

    assert len(open_weights(path)) == 1


def test_100_gigabytes_announced_by_a_small_file_are_refused_without_memory(tmp_path):
    entry = {"dtype": "F32", "shape": [25_000_000_000], "data_offsets": [0, 100_000_000_000]}
    (tmp_path / "a.safetensors").write_bytes(packed({"a": entry}))

    assert "8 of its 100,000,000,000 bytes" in refusal(open_weights, tmp_path / "a.safetensors")


def test_100_gigabytes_of_holes_are_described_without_reading_them(tmp_path):
    path = tmp_path / "a.safetensors"
    header = packed({"a": {"dtype": "F32", "shape": [25_000_000_000], "data_offsets": [0, 100_000_000_000]}}, b"")
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + 100_000_000_000)

    with limited():
        try:
            text = inspect(path)
        except CheckpointError as error:  # some systems promise no more memory than they have
            text = str(error)
    assert "25,000.00 million" in text or "cannot be mapped into memory" in text


def test_a_header_of_opening_brackets_is_refused(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(packed(b"[" * 15_000_000))

    assert "its header is not readable" in refusal(open_file, tmp_path / "a.safetensors")


# what is no regular file


@pytest.mark.parametrize(
    ("read", "name"),
    [
        (open_weights, "a.safetensors"),
        (open_weights, "model.safetensors.index.json"),
        (read_config, "a.yaml"),
        (read_picture, "a.png"),
        (read_video, "a.mp4"),
        (examine, "a.mp4"),
        (list_videos, "a.json"),
    ],
)
def test_a_pipe_is_refused_and_not_waited_for(tmp_path, read, name):
    os.mkfifo(tmp_path / name)

    refusal(read, tmp_path / name)


@pytest.mark.parametrize("read", [open_weights, read_config, read_picture, read_video, examine])
@pytest.mark.parametrize("target", ["/dev/zero", "/dev/tty", "folder", "loop"])
def test_a_link_to_a_device_a_folder_or_itself_is_refused(tmp_path, read, target):
    (tmp_path / "folder").mkdir()
    path = tmp_path / ("loop" if target == "loop" else "link.safetensors")
    path.symlink_to(target if target.startswith("/") else tmp_path / target)

    refusal(read, path)


# links


def test_a_link_that_a_person_made_is_followed(tmp_path):
    """The cache of Hugging Face consists of links, and so do many model folders."""
    save_file({"a": torch.ones(1)}, tmp_path / "blob")
    (tmp_path / "a.safetensors").symlink_to(tmp_path / "blob")

    assert open_weights(tmp_path / "a.safetensors")["a"] == 1


def test_writing_replaces_a_link_and_not_what_it_leads_to(tmp_path):
    (tmp_path / "outside").write_bytes(b"untouched")
    for name in ("a.safetensors", "a.mp4"):
        (tmp_path / name).symlink_to(tmp_path / "outside")

    write_weights(tmp_path / "a.safetensors", {"a": torch.ones(1)})
    save_video(torch.zeros(2, 16, 16, 3), tmp_path / "a.mp4")

    assert (tmp_path / "outside").read_bytes() == b"untouched"
    assert not (tmp_path / "a.safetensors").is_symlink()
    assert not (tmp_path / "a.mp4").is_symlink()


# texts


def test_a_configuration_of_megabytes_is_refused_at_once(tmp_path):
    (tmp_path / "a.yaml").write_text("target: svd\n" + "# x\n" * 1_000_000)

    assert "such a file has at most" in refusal(read_config, tmp_path / "a.yaml")


@pytest.mark.parametrize("text", ["{" * 29_000, "- " * 14_000, "a: {b: [" * 3000, "'" * 29_000, "!!x " * 7000])
def test_a_configuration_that_takes_the_parser_long_is_refused_soon(tmp_path, text):
    (tmp_path / "a.yaml").write_text(f"target: svd\nrun:\n  {text}")

    refusal(read_config, tmp_path / "a.yaml")


def test_the_longest_configuration_is_read_soon(tmp_path):
    (tmp_path / "a.yaml").write_text("target: svd\n" + "".join(f"k{i}: 1\n" for i in range(3000)))

    assert "2994 more" in refusal(read_config, tmp_path / "a.yaml", seconds=4.0)


def test_an_answer_without_end_is_refused(tmp_path):
    def ask():
        with answering(b"HTTP/1.1 200 OK\n\n" + b"[" * 20_000_000):
            announce(COGVIDEOX_VAE, "modelscope", 1.0)

    assert "something else than a list of files" in refusal(ask)


# pictures and videos


def png(width, height):
    """A picture whose every pixel is black, in a few bytes."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    rows = zlib.compress(bytes((width + 7) // 8 + 1) * min(height, 1000))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(8200, 8200), (12_000, 12_000), (60_000, 60_000), (2**31 - 1, 1), (2**26, 2)])
def test_a_picture_of_absurd_size_is_refused_before_it_is_decoded(tmp_path, size):
    (tmp_path / "a.png").write_bytes(png(*size))

    refusal(read_picture, tmp_path / "a.png")


def test_a_photograph_of_60_million_pixels_is_read(tmp_path):
    Image.new("L", (9504, 6336)).save(tmp_path / "a.png")

    with limited(seconds=10):
        assert read_picture(tmp_path / "a.png").size == (9504, 6336)


@pytest.mark.parametrize("read", [lambda path: list(read_video(path)), examine], ids=["ffmpeg", "PyAV"])
def test_a_video_of_absurd_size_is_refused(tmp_path, read):
    save_video(torch.zeros(2, 16, 16, 3), tmp_path / "a.gif")
    sound = (tmp_path / "a.gif").read_bytes()
    (tmp_path / "a.avi").write_bytes(sound[:6] + b"\xff\xff\xff\xff" + sound[10:])

    refusal(read, tmp_path / "a.avi")


def test_more_frames_than_fit_into_memory_are_not_collected(tmp_path, monkeypatch):
    save_video(torch.zeros(40, 64, 64, 3), tmp_path / "a.mp4")
    monkeypatch.setattr("exvideo_core.video.reading._MOST_VALUES", 30 * 64 * 64 * 3)

    with pytest.raises(VideoError, match="at most 30 frames of 64x64"):
        load_frames(tmp_path / "a.mp4")
    assert len(load_frames(tmp_path / "a.mp4", 30)) == 30


@pytest.mark.parametrize("read", [lambda path: list(read_video(path)), examine], ids=["ffmpeg", "PyAV"])
def test_no_kind_of_video_leads_to_another_file_or_into_the_network(tmp_path, read):
    """Playlists, lists of files and patterns of names, which ffmpeg would follow."""
    save_video(torch.zeros(2, 16, 16, 3), tmp_path / "secret.ts.mp4")
    for i in range(2):
        Image.new("RGB", (16, 16)).save(tmp_path / f"frame_{i}.png")
    asked = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            server.accept()
            asked.set()

        threading.Thread(target=answer, daemon=True).start()
        address = f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"
        lines = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n"
        texts = {"web.mp4": lines.format(address), "web.m3u8": lines.format(address), "frame_%d.png": ""}
        texts |= {"local.m3u8": lines.format("secret.ts.mp4"), "list.mp4": "ffconcat version 1.0\nfile secret.ts.mp4\n"}
        for name, text in texts.items():
            (tmp_path / name).write_text(text)
            with pytest.raises(VideoError):
                read(tmp_path / name)
        assert not asked.is_set()


def test_a_training_of_a_stranger_writes_under_no_name_with_folders(tmp_path):
    text = json.dumps({"target": "svd", "run": {"name": "../../../evil"}})
    (tmp_path / "a.yaml").write_text(text)

    assert "run.name must be a plain file name" in refusal(read_config, tmp_path / "a.yaml")


def test_a_repeated_name_is_refused_as_readers_disagree_which_counts(tmp_path):
    twice = json.dumps({"a": A})[:-1] + ', "a": {"dtype": "F16", "shape": [4], "data_offsets": [0, 8]}}'
    (tmp_path / "a.safetensors").write_bytes(packed(twice.encode()))

    with pytest.raises(CheckpointError, match="its header is not readable"):
        open_weights(tmp_path / "a.safetensors")
