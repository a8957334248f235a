"""Whether files find room is known before anything is fetched."""

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from exvideo_core.errors import DownloadError
from exvideo_core.families.svd.files import EXVIDEO_SVD, SVD_XT
from exvideo_core.hub.download import check_room, fetch_all

Usage = namedtuple("Usage", "total used free")


def test_a_full_disk_is_noticed_before_anything_is_fetched(hub, folder, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 10**12, 10**9))
    with pytest.raises(DownloadError, match=r"no room: the files take 11\.23 GB more, and .* has 1\.00 GB free"):
        fetch_all({SVD_XT: folder, EXVIDEO_SVD: folder})

    assert not hub.requests


def test_a_part_that_another_process_has_just_finished_is_no_error(folder, monkeypatch):
    monkeypatch.setattr(Path, "glob", lambda *_: iter([folder / f"{EXVIDEO_SVD.name}.gone.part"]))

    check_room({EXVIDEO_SVD: folder})


def test_a_drive_that_does_not_exist_is_named(hub, folder, monkeypatch):
    monkeypatch.setattr(Path, "exists", lambda *_, **__: False)  # as of Z:\\ and all below it

    with pytest.raises(DownloadError, match=r"the drive of .* does not exist"):
        check_room({EXVIDEO_SVD: folder})
    assert not hub.requests
