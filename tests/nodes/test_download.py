"""ExVideoDownload and the labels of lists in a running ComfyUI and its page; Hugging Face is a server of this test."""

import threading
import time

import pytest
import torch
from safetensors.torch import save

from exvideo_core.families.svd.files import EXVIDEO_SVD, SVD_XT
from exvideo_core.hub.catalog import choices
from host.browser import find_chromium, open_page
from host.client import ExecutionError, RequestError

pytestmark = pytest.mark.comfyui

CONTENT = save({"blocks.7.norm_in.weight": torch.zeros(320), "blocks.7.ff_in.weight": torch.zeros(250_000)})


def download(model, source="Hugging Face"):
    return {"1": {"class_type": "ExVideoDownload", "inputs": {"model": model, "source": source}}}


def listed(comfyui, node, name):
    time.sleep(1.1)  # ComfyUI looks again when the folder's time has changed
    return comfyui.client.get(f"/object_info/{node}")[node]["input"]["required"][name][1]["options"]


def test_files_are_in_the_lists_after_the_node_has_run(comfyui, hub, models):
    comfyui.client.run(download("picture to video"))

    assert (models / "checkpoints" / SVD_XT.name).read_bytes() == CONTENT
    assert SVD_XT.name in listed(comfyui, "ExVideoSVDLoader", "checkpoint")
    assert EXVIDEO_SVD.name in listed(comfyui, "ExVideoSVDLoader", "extension")
    labels = comfyui.client.get("/exvideo/files")
    assert labels["exvideo"][EXVIDEO_SVD.name] == "ExVideo extension of SVD, incomplete"


def test_the_node_asks_nothing_for_what_is_there(comfyui, hub, models):
    comfyui.client.run(download("picture to video"))
    hub.requests.clear()
    (models / "exvideo" / EXVIDEO_SVD.name).unlink()
    comfyui.client.run(download("picture to video"))

    assert [path for _, _, path, _ in hub.requests if "svd_xt" in path] == []
    assert (models / "exvideo" / EXVIDEO_SVD.name).exists()


def test_cancel_stops_within_a_second_and_the_next_run_goes_on(comfyui, hub, models):
    hub.answers, hub.after = ["stall"], 300_000
    prompt = download(EXVIDEO_SVD.name)
    failed = []

    def run():
        try:
            comfyui.client.run(prompt)
        except ExecutionError as error:
            failed.append((time.monotonic(), error))

    thread = threading.Thread(target=run)
    thread.start()
    parts = models / "exvideo"
    end = time.monotonic() + 30
    while time.monotonic() < end and not [path for path in parts.glob("*.part") if path.stat().st_size == 300_000]:
        time.sleep(0.05)
    pressed = time.monotonic()
    comfyui.client.post("/interrupt", {})
    thread.join(30)

    assert failed, "the run went on"
    assert failed[0][0] - pressed < 1.5  # a second, and the way to this test
    assert not (parts / EXVIDEO_SVD.name).exists()
    hub.requests.clear()
    comfyui.client.run(prompt)
    assert hub.sent("store")[0]["Range"] == "bytes=300000-"
    assert (parts / EXVIDEO_SVD.name).read_bytes() == CONTENT
    assert [path.name for path in parts.glob("*.part")] == []


def test_a_refusal_is_shown_as_it_is(comfyui, hub, models):
    hub.status = 403
    with pytest.raises(ExecutionError, match="accept its licence there, make a token"):
        comfyui.client.run(download(SVD_XT.name))


def test_a_missing_file_is_refused_before_the_run(comfyui, hub, models):
    inputs = {"checkpoint": SVD_XT.name, "extension": "none", "weight_dtype": "default"}
    prompt = {
        "1": {"class_type": "ExVideoSVDLoader", "inputs": inputs},
        "2": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["1", 2]}},
        "3": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "4": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
    }
    with pytest.raises(RequestError, match=r"svd_xt\.safetensors is not in .*Download ExVideo Models"):
        comfyui.client.run(prompt)


# the page

OPEN_LIST = """async ({ type, name, vue }) => {
  app.graph.clear();
  const node = LiteGraph.createNode(type);
  app.graph.add(node);
  node.pos = [100, 100];
  node.size = [500, 200];
  Object.assign(app.canvas.ds, { scale: 1, offset: [50, 50] });
  await new Promise(done => setTimeout(done, 800));
  const widget = node.widgets.find(widget => widget.name === name);
  const box = app.canvas.canvas.getBoundingClientRect();
  return [box.left + 400, box.top + 150 + (widget.last_y ?? 0) + 10] }"""
ENTRIES = "[...document.querySelectorAll('.litecontextmenu .litemenu-entry')].map(entry => entry.textContent)"
CHOSEN = "name => app.graph._nodes[0].widgets.find(widget => widget.name === name).value"


@pytest.fixture(scope="module")
def page(comfyui):
    if find_chromium() is None:
        pytest.skip("no Chromium is installed")
    with open_page(comfyui.url) as page:
        yield page


def open_list(page, kind, name):
    page.page.mouse.click(*page.page.evaluate(OPEN_LIST, {"type": kind, "name": name}))
    page.page.wait_for_timeout(500)
    return page.page.evaluate(ENTRIES)


@pytest.mark.browser
def test_lists_in_the_page_say_what_files_are_and_choose_plain_names(page, tmp_path):
    entries = open_list(page, "ExVideoSVDLoader", "extension")
    page.picture(tmp_path / "list.png", show_all=False)

    assert "demo 128 frames - ExVideo extension of SVD for 128 frames, fp16" in entries
    assert "none" in entries
    page.page.click("text=demo 128 frames - ExVideo")
    assert page.page.evaluate(CHOSEN, "extension") == "demo 128 frames"


@pytest.mark.browser
def test_the_new_kind_of_nodes_gets_labels_by_option_and_drawn_ones_by_their_menu(page):
    open_list(page, "ExVideoSVDLoader", "extension")
    page.page.keyboard.press("Escape")
    label = """is_new => { const before = LiteGraph.vueNodesMode;
      LiteGraph.vueNodesMode = is_new;
      const { getOptionLabel } = app.graph._nodes[0].widgets.find(widget => widget.name === "checkpoint").options;
      LiteGraph.vueNodesMode = before;
      return getOptionLabel ? getOptionLabel("demo svd") : null }"""

    assert page.page.evaluate(label, True) == "demo svd - SVD checkpoint, fp16"
    assert page.page.evaluate(label, False) is None  # the menu would lose its search field


@pytest.mark.browser
def test_downloads_in_the_page_say_their_size(page):
    entries = open_list(page, "ExVideoDownload", "model")

    assert [entry.partition(" - ")[0] for entry in entries] == list(choices())
    assert "picture to video - 11.2 GB" in entries
    page.page.keyboard.press("Escape")


@pytest.mark.browser
def test_the_page_takes_a_published_file_by_its_other_name(page, comfyui, models):
    (models / "exvideo" / "model.fp16.safetensors").write_bytes(CONTENT)
    time.sleep(1.1)
    page.page.evaluate("app.refreshComboInNodes()")
    page.page.wait_for_timeout(1500)
    open_list(page, "ExVideoSVDLoader", "extension")
    page.page.keyboard.press("Escape")
    graph = page.graph()
    graph["nodes"][0]["widgets_values"] = ["demo svd", EXVIDEO_SVD.name, "default"]
    page.page.evaluate("async graph => { await app.loadGraphData(graph) }", graph)

    assert page.page.evaluate(CHOSEN, "extension") == "model.fp16.safetensors"
    assert page.errors == []
