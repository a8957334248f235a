"""The subgraph blueprints: found like a node, put on the canvas, and run."""

import json
import shutil
import time
from pathlib import Path

import pytest

from exvideo_core.video import probe
from host.browser import find_chromium, open_page
from run import PICTURE

pytestmark = pytest.mark.comfyui

FOLDER = Path(__file__).resolve().parents[2] / "subgraphs"
PICTURE_TO_VIDEO, SENTENCE_TO_VIDEO = "ExVideo picture to video", "ExVideo sentence to video"
EMPTY = {"nodes": [], "links": [], "groups": [], "config": {}, "extra": {}, "version": 0.4}
# A picture for the blueprint if it takes one, and a node that saves its video.
CONNECT = """({ values, picture }) => {
  const [blueprint] = app.graph._nodes
  for (const [name, value] of Object.entries(values))
    blueprint.widgets.find(widget => widget.name === name).value = value
  const add = type => { const node = LiteGraph.createNode(type); app.graph.add(node); return node }
  blueprint.connect(0, add('SaveVideo'), 0)
  if (!blueprint.inputs.some(input => input.name === 'image')) return
  const load = add('LoadImage')
  load.widgets.find(widget => widget.name === 'image').value = picture
  load.connect(0, blueprint, blueprint.inputs.findIndex(input => input.name === 'image')) }"""


def test_server_offers_them(comfyui):
    listed = comfyui.client.get("/global_subgraphs")
    ours = {entry["name"]: key for key, entry in listed.items() if "ExVideo" in entry["info"]["node_pack"]}

    assert sorted(ours) == [PICTURE_TO_VIDEO, SENTENCE_TO_VIDEO] == sorted(path.stem for path in FOLDER.iterdir())
    for name, key in ours.items():
        data = json.loads(comfyui.client.get(f"/global_subgraphs/{key}")["data"])
        assert data["definitions"]["subgraphs"][0]["name"] == name


@pytest.fixture(scope="module")
def page(comfyui):
    (comfyui.base / "input").mkdir(exist_ok=True)
    shutil.copy(PICTURE, comfyui.base / "input")
    time.sleep(1.1)  # ComfyUI looks again when a folder's time has changed
    with open_page(comfyui.url) as page:
        yield page


@pytest.mark.browser
@pytest.mark.skipif(find_chromium() is None, reason="no Chromium is installed")
@pytest.mark.parametrize(
    ("name", "values", "size"),
    [
        (
            PICTURE_TO_VIDEO,
            {"checkpoint": "demo svd", "extension": "demo 128 frames", "width": 128, "height": 128, "frames": 4},
            (128, 128, 4),
        ),
        (
            SENTENCE_TO_VIDEO,
            {
                **dict.fromkeys(("transformer", "text_encoder", "vae"), "demo cogvideox"),
                "lora": "demo 129 frames",
                "prompt": "a red circle swings on white",
                "width": 96,
                "height": 96,
                "frames": 9,
            },
            (96, 96, 9),
        ),
    ],
    ids=["picture", "sentence"],
)
def test_put_on_the_canvas_it_runs(name, values, size, page, comfyui, tmp_path):
    page.load(EMPTY)
    page.page.wait_for_function("app.graph._nodes.length === 0", timeout=20_000)
    page.page.mouse.move(800, 450)
    page.page.evaluate("app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
    page.page.wait_for_timeout(1000)
    page.page.keyboard.type(name, delay=20)
    page.page.get_by_text(name, exact=True).first.wait_for(timeout=20_000)
    page.page.wait_for_timeout(1000)
    page.picture(tmp_path / "search.png", show_all=False)
    page.page.keyboard.press("Enter")
    page.page.wait_for_function("app.graph._nodes.length === 1", timeout=20_000)
    page.page.mouse.click(500, 300)  # lays it down

    page.page.evaluate(CONNECT, {"values": {**values, "steps": 2}, "picture": PICTURE.name})
    run = comfyui.client.run(page.prompt())

    (file,) = run.files
    info = probe(comfyui.client.download(file, tmp_path))
    assert (info.width, info.height, info.num_frames) == size
