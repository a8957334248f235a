"""Save ExVideo in the page: the file's name, the picture on the node, and the graph out of the file."""

import itertools
import os
import re
import time
from pathlib import Path
from urllib.parse import urlencode

import pytest

from host.browser import find_chromium, open_page

pytestmark = [
    pytest.mark.browser,
    pytest.mark.comfyui,
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium is installed"),
]

SHOWN = """() => { const node = app.graph._nodes.find((node) => node.type === 'ExVideoSave');
  const video = (node.widgets ?? []).map((widget) => widget.element?.querySelector?.('video')).find(Boolean);
  return (video?.readyState >= 2 && video.videoWidth) || node.imgs?.[0]?.naturalWidth || 0 }"""
DROP = """async ({ url, name }) => { app.graph.clear();
  const blob = await (await fetch(url)).blob();
  await app.handleFile(new File([blob], name, { type: blob.type })) }"""
IDS = itertools.count(1, 10)
PREFIX = "exvideo/猫 and } brace"

KINDS = [
    ("mp4, h264", False, "mp4"),
    ("mp4, h264", True, "mp4"),
    ("mov, prores", True, "mov"),
    ("webm, vp9", False, "webm"),
    ("webm, av1", True, "webm"),
    ("webp, webp", False, "webp"),
    ("mkv, h264", True, "png"),
    ("gif, gif", False, "png"),
]
PLAYED = ("mp4, h264", "webm, vp9", "gif, gif", "webp, webp")  # by the browser of the tests


@pytest.fixture(scope="module")
def page(comfyui):
    with open_page(comfyui.url, size=(1400, 900)) as page:
        yield page


def graph_of(first_id, kind="mp4, h264", fps=8.0, prefix="exvideo/clip", poster=False, sound=False):
    """A saved graph of one colour for 12 frames, with or without silence; new ids, as the page keeps values by id."""
    picture, silence, save = first_id, first_id + 1, first_id + 2
    inputs = [{"name": "images", "type": "IMAGE", "link": 1}, {"name": "audio", "type": "AUDIO", "link": None}]
    image = {"name": "IMAGE", "type": "IMAGE", "links": [1]}
    nodes = [
        {"id": picture, "type": "EmptyImage", "outputs": [image], "widgets_values": [96, 64, 12, 0x3366CC]},
        {"id": save, "type": "ExVideoSave", "inputs": inputs, "pos": [400, 0], "size": [320, 400]}
        | {"widgets_values": [fps, kind, "high", prefix, "auto", poster]},
    ]
    links = [[1, picture, 0, save, 0, "IMAGE"]]
    if sound:
        output = {"name": "AUDIO", "type": "AUDIO", "links": [2]}
        nodes += [{"id": silence, "type": "EmptyAudio", "pos": [0, 300], "outputs": [output]}]
        nodes[-1]["widgets_values"] = [1.0, 44100, 2]
        links += [[2, silence, 0, save, 1, "AUDIO"]]
        inputs[1]["link"] = 2
    return {"version": 0.4, "last_node_id": save, "last_link_id": 2, "nodes": nodes, "links": links}


def save(page, comfyui, **choices):
    """Run the graph in the page; return what it sent, and the files that the node has written, by their endings."""
    before = files_in(comfyui.base / "output")
    assert page.load(graph_of(next(IDS), **choices)) == []
    sent = page.prompt()

    def new():
        return files_in(comfyui.base / "output") - before

    page.page.evaluate("app.queuePrompt(0)")
    wait_until(lambda: new() and not any(comfyui.client.get("/queue").values()), comfyui.server)
    return sent, {path.suffix[1:]: path for path in new()}


def files_in(folder):
    # os.walk takes it that a folder of a save in progress is gone when it comes there
    return {Path(inside) / name for inside, _, names in os.walk(folder) for name in names}


def wait_until(is_so, server):
    end = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < end, server.read_log()[-2000:]
        time.sleep(0.1)


@pytest.mark.parametrize(("kind", "sound", "dropped"), KINDS, ids=str)
def test_a_file_dropped_onto_the_page_is_its_graph(page, comfyui, kind, sound, dropped, tmp_path):
    poster = dropped == "png"

    sent, files = save(page, comfyui, kind=kind, prefix=PREFIX, poster=poster, sound=sound)

    if kind in PLAYED:
        page.page.wait_for_function(f"({SHOWN})() === 96", timeout=20_000)
        page.picture(tmp_path / "shown.png")
    assert set(files) == {kind.split(",")[0], dropped}
    name = files[dropped].name
    query = urlencode({"filename": name, "subfolder": "exvideo", "type": "output"})
    page.page.evaluate(DROP, {"url": f"/view?{query}", "name": name})
    page.page.wait_for_function("app.graph._nodes.length > 1", timeout=20_000)
    assert page.prompt() == sent


def test_dates_and_other_nodes_widgets_are_filled_into_the_name(page, comfyui):
    _, files = save(page, comfyui, prefix="%date:yyyy-MM-dd%/%EmptyImage.color% %width%x%height% %year%")

    (path,) = files.values()
    place = path.relative_to(comfyui.base / "output").as_posix()
    assert re.fullmatch(r"(\d{4})-\d\d-\d\d/3368652 96x64 \1_00001_\.mp4", place)
