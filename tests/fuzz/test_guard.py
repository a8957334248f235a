"""The guard sees what no reader may do, and lets them read; without that, no fuzzer could fail."""

import os
import pickle
import socket
import subprocess
import sys
from contextlib import suppress

import pytest

from exvideo_core.video import ffmpeg

from .guard import ForbiddenError, guarded

DEEDS = {
    "writes a file": lambda folder: (folder / "new").write_bytes(b""),
    "appends to a file": lambda folder: (folder / "there").open("a"),
    "opens a file for both": lambda folder: os.open(folder / "there", os.O_RDWR),
    "renames": lambda folder: (folder / "there").rename(folder / "new"),
    "removes": lambda folder: (folder / "there").unlink(),
    "makes a folder": lambda folder: (folder / "new").mkdir(),
    "links": lambda folder: (folder / "new").symlink_to(folder / "there"),
    "starts a process": lambda _: subprocess.run([sys.executable, "--version"], check=True),
    "loads a pickle": lambda _: pickle.loads(pickle.dumps(os.getcwd)),
    "compiles": lambda _: compile("1", "a", "eval"),
    "connects": lambda _: socket.create_connection(("127.0.0.1", 9), timeout=0.1),
    "asks for a name": lambda _: socket.getaddrinfo("localhost", 9),
}


@pytest.mark.parametrize("deed", DEEDS)
def test_what_no_reader_may_do_is_seen(tmp_path, deed):
    (tmp_path / "there").write_bytes(b"")

    with pytest.raises(ForbiddenError), guarded():
        DEEDS[deed](tmp_path)


def test_what_a_library_swallows_is_seen_too(tmp_path):
    with pytest.raises(ForbiddenError), guarded(), suppress(BaseException):
        (tmp_path / "new").write_bytes(b"")


def test_reading_and_ffmpeg_and_one_folder_are_allowed(tmp_path):
    (tmp_path / "there").write_bytes(b"1")
    (tmp_path / "writable").mkdir()

    with guarded(writable=tmp_path / "writable"):
        assert (tmp_path / "there").read_bytes() == b"1"
        (tmp_path / "writable" / "new").write_bytes(b"1")
        ffmpeg.run(["-version"], "asking for the version")


def test_a_link_out_of_the_writable_folder_is_no_way_out(tmp_path):
    (tmp_path / "writable").mkdir()
    (tmp_path / "writable" / "way").symlink_to(tmp_path)

    with pytest.raises(ForbiddenError), guarded(writable=tmp_path / "writable"):
        (tmp_path / "writable" / "way" / "new").write_bytes(b"")
