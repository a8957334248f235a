"""Two ComfyUI servers with the same folders, and the command line beside them: nobody takes anything from another."""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from unittest.mock import patch

import pytest
import torch
from PIL import Image
from safetensors.torch import save

from exvideo_core.families.cogvideox.files import COGVIDEOX_VAE
from exvideo_core.families.svd.files import EXVIDEO_SVD, SVD_XT
from exvideo_core.video.reading import load_frames
from host.client import Client
from host.server import Server

pytestmark = pytest.mark.comfyui

CLIPS, FRAMES = 6, 12
CONTENT = save({"blocks.7.norm_in.weight": torch.zeros(320), "blocks.7.ff_in.weight": torch.zeros(500_000)})


@pytest.fixture(scope="module")
def clients(comfyui):
    """Of both servers; the second has the folders of the first."""
    base = comfyui.base
    database = f"sqlite:///{(base / 'user' / 'second.db').as_posix()}"
    first = comfyui.server
    second = Server(first.python, first.tree, base, arguments=("--cpu", "--database-url", database))
    second.log = base / "second.log"
    hub = {"HF_ENDPOINT": f"http://127.0.0.1:{comfyui.hub_port}", "HF_HOME": str(base / "huggingface")}
    with patch.dict(os.environ, hub):
        second.start()
    with second:
        yield [comfyui.client, Client(second.url)]


def at_once(*works):
    with ThreadPoolExecutor(len(works)) as pool:
        return [each.result() for each in [pool.submit(work) for work in works]]


def saving(grey):
    """Frames without a model, to a clip and its poster."""
    chosen = {"fps": 8.0, "format": "mp4, h264", "quality": "high", "filename_prefix": "both/clip", "poster": True}
    return {
        "picture": {"class_type": "LoadImage", "inputs": {"image": f"grey{grey}.png"}},
        "frames": {"class_type": "RepeatImageBatch", "inputs": {"image": ["picture", 0], "amount": FRAMES}},
        "save": {"class_type": "ExVideoSave", "inputs": {"images": ["frames", 0], **chosen}},
    }


def test_clips_of_the_same_name_are_all_there_and_whole(comfyui, clients):
    shades = range(0, 20 * 2 * CLIPS, 20)
    for grey in shades:
        Image.new("RGB", (96, 64), (grey,) * 3).save(comfyui.base / "input" / f"grey{grey}.png")

    def save_all(client, greys):
        for_each = [client.queue(saving(grey)) for grey in greys]
        return [client.wait(prompt_id) for prompt_id in for_each]

    first, second = at_once(*(lambda k=k: save_all(clients[k], shades[k::2]) for k in (0, 1)))
    runs = first + second

    assert [run.status for run in runs] == ["success"] * 2 * CLIPS
    names = [file["filename"] for run in runs for file in run.files]
    folder = comfyui.base / "output" / "both"
    assert len(set(names)) == 2 * CLIPS
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        name.replace(".mp4", suffix) for name in names for suffix in (".mp4", ".png")
    )
    for name, grey in zip(names, [*shades[::2], *shades[1::2]], strict=True):
        frames = load_frames(folder / name)
        assert len(frames) == FRAMES
        assert float(frames.mean()) == pytest.approx(grey / 255, abs=0.02)
        assert Image.open(folder / name.replace(".mp4", ".png")).getpixel((0, 0))[0] == grey


# downloads


def node(client, file):
    prompt = {"1": {"class_type": "ExVideoDownload", "inputs": {"model": file.name, "source": "Hugging Face"}}}
    return client.wait(client.queue(prompt), timeout=60)


@contextmanager
def command(hub, models, key):
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(models / "huggingface")}
    arguments = [sys.executable, "-m", "exvideo_core", "download", key, "--to", str(models)]
    with subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            yield process
        finally:
            process.kill()


def assert_only(path):
    assert path.read_bytes() == CONTENT
    assert [other.name for other in path.parent.glob(f"{path.name}*")] == [path.name]


def test_of_three_that_want_a_file_one_fetches_it(hub, models, clients):
    hub.pace = 0.1
    with command(hub, models, "exvideo-svd-128f") as process:
        runs = at_once(*(lambda client=client: node(client, EXVIDEO_SVD) for client in clients))
        assert process.wait(60) == 0, process.stdout.read()

    assert [run.status for run in runs] == ["success"] * 2
    assert [headers.get("Range") for headers in hub.sent("store")] == [None]
    assert_only(models / EXVIDEO_SVD.folder / EXVIDEO_SVD.name)


def test_when_the_one_that_fetches_is_killed_another_goes_on_where_it_stopped(hub, models, clients):
    hub.pace = 0.1
    folder = models / EXVIDEO_SVD.folder
    with command(hub, models, "exvideo-svd-128f") as process:
        end = time.monotonic() + 60
        while time.monotonic() < end and not any(path.stat().st_size for path in folder.glob("*.part")):
            time.sleep(0.02)
        runs = []
        bring = [lambda client=client: runs.append(node(client, EXVIDEO_SVD)) for client in clients]
        waiting = [threading.Thread(target=each) for each in bring]
        for thread in waiting:
            thread.start()
        time.sleep(1)
        assert process.poll() is None, "it had brought all before it could be killed"
    for thread in waiting:
        thread.join()

    assert [run.status for run in runs] == ["success"] * 2
    first, second = hub.sent("store")
    assert first.get("Range") is None
    assert second["Range"].removeprefix("bytes=") != "0-"
    assert_only(folder / EXVIDEO_SVD.name)


def test_different_files_come_at_the_same_time(hub, models, clients):
    hub.pace = 0.1
    with command(hub, models, "cogvideox-5b-vae") as process:
        runs = at_once(lambda: node(clients[0], SVD_XT), lambda: node(clients[1], EXVIDEO_SVD))
        assert process.wait(60) == 0, process.stdout.read()

    assert [run.status for run in runs] == ["success"] * 2
    for file in (SVD_XT, EXVIDEO_SVD, COGVIDEOX_VAE):
        assert_only(models / file.folder / file.name)
