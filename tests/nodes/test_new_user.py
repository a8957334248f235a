"""As somebody meets the pack: unpacked from the registry's archive into an empty ComfyUI, then Templates, then Run.

Slow, for it runs every workflow in the page: `pytest -m slow tests/nodes/test_new_user.py`. EXVIDEO_PICTURES names a
folder for screenshots of what was seen.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pathspec
import pytest
from in_comfyui import STOCK, WORKFLOWS, place_inputs

from host.browser import find_chromium, open_page
from host.comfyui_trees import NEWEST
from host.environment import Environment
from host.graph import read_graph
from host.server import Server
from run import DEMOS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.comfyui,
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium is installed"),
]

ROOT = Path(__file__).resolve().parents[2]
NAME = "exvideo"  # the registry's: the folder is called by it
# The demo models in place of the real ones, and few frames, for speed.
VALUES = {kind: dict(inputs) for demo in DEMOS.values() for kind, inputs in demo.inputs.items() if kind[:2] == "Ex"}
VALUES["ExVideoSVDConditioning"] |= {"frames": 8}
VALUES["ExVideoCogVideoXLatent"] |= {"frames": 9}
SAMPLER = {"svd": DEMOS["svd"].inputs["ExVideoSampler"], "cogvideox": DEMOS["cogvideox"].inputs["ExVideoSampler"]}
DRAWS = "exvideo_text_to_image_to_128f"  # needs Stable Diffusion, of which there is no small model
SET_WIDGETS = """values => { for (const node of app.graph._nodes)
  for (const [name, value] of Object.entries(values[node.type] ?? {})) {
    const widget = (node.widgets ?? []).find(widget => widget.name === name);
    if (widget) { widget.value = value; widget.callback?.(value) } } }"""
SET_KEYFRAMES = """frames => { for (const node of app.graph._nodes) {
  const widget = (node.widgets ?? []).find(widget => widget.name === 'keyframe_indices');
  if (widget?.value) widget.value = `0, ${frames - 1}` } }"""
HAS_PICTURE = """name => [...document.querySelectorAll('[role=dialog] img')]
  .some(image => image.alt === name && image.naturalWidth > 0)"""
VIDEOS = """() => app.graph._nodes.filter(node => node.type === 'ExVideoSave').map(node => {
  const widget = (node.widgets ?? []).find(widget => widget.element?.querySelector?.('video'));
  const video = widget?.element.querySelector('video');
  return video && video.videoWidth > 0 && video.duration > 0 && !video.error ? video.duration : 0 })"""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """ComfyUI's folders with the archive's files in them, and the picture that every ComfyUI has."""
    base = tmp_path_factory.mktemp("new_user")
    files = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(files, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    ignored = pathspec.GitIgnoreSpec.from_lines((ROOT / ".comfyignore").read_text(encoding="utf-8").splitlines())
    for name in listed.splitlines():
        if not ignored.match_file(name) and (ROOT / name).is_file():
            target = base / "custom_nodes" / NAME / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target)
    return base


@pytest.fixture(scope="module")
def server(base):
    tree = Environment(ROOT).tree(NEWEST)
    if not (tree / "main.py").exists():
        pytest.skip(f"no ComfyUI in {tree}: `python run.py test` puts one there")
    (base / "input").mkdir()
    shutil.copy(tree / "input" / "example.png", base / "input")
    with Server(Path(sys.executable), tree, base) as server:
        assert server.failed_imports() == []
        yield server


@pytest.fixture(scope="module")
def page(server):
    with open_page(server.url, size=(1920, 1000)) as page:
        yield page


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = Path(os.environ.get("EXVIDEO_PICTURES") or tmp_path_factory.mktemp("pictures"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def open_templates(page):
    page.open_templates()
    page.page.get_by_text(NAME, exact=True).first.click()
    page.page.get_by_test_id(f"template-workflow-{WORKFLOWS[0].stem}").wait_for()
    page.page.wait_for_timeout(1500)


def complaints(page):
    """What the page says of itself: toasts and dialogs, but for models that are not there yet."""
    texts = page.page.locator("[role=alert], .p-toast-message, [role=dialog], [data-testid=error-overlay]")
    return [text for text in texts.all_inner_texts() if text.strip()]


def test_templates_show_every_workflow_with_its_picture(page, pictures):
    open_templates(page)
    for path in WORKFLOWS:
        card = page.page.get_by_test_id(f"template-workflow-{path.stem}")
        card.scroll_into_view_if_needed()
        assert path.stem in card.inner_text()
        page.page.wait_for_function(HAS_PICTURE, arg=path.stem, timeout=20_000)
    page.picture(pictures / "templates.png", show_all=False)
    page.page.keyboard.press("Escape")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_template_opens_runs_and_plays(path, page, server, pictures):
    open_templates(page)
    page.errors.clear()
    page.page.get_by_test_id(f"template-workflow-{path.stem}").click()
    page.page.wait_for_function("name => document.title.includes(name)", arg=path.stem)
    page.page.wait_for_timeout(2500)
    page.picture(pictures / f"{path.stem}.png")
    graph = read_graph(path)
    assert page.page.evaluate("app.graph._nodes.length") == len(graph["nodes"])
    assert page.page.evaluate("app.graph._nodes.filter(node => node.has_errors && !node.type).length") == 0
    assert [text for text in complaints(page) if not re.search(r"\d+ errors? found|missing model", text, re.I)] == []
    assert not page.page.get_by_text("Missing node", exact=False).count()
    assert page.errors == []
    if path.stem == DRAWS:
        return

    place_inputs(server.base / "input", [node for node in graph["nodes"] if node["type"] == "LoadVideo"])
    for node in graph["nodes"]:
        for model in node["properties"].get("models", []) if node["type"] in STOCK else []:
            folder = server.base / "models" / model["directory"]
            folder.mkdir(parents=True, exist_ok=True)
            STOCK[node["type"]](folder / model["name"])
    page.page.evaluate("app.refreshComboInNodes()")
    kind = "cogvideox" if "cogvideox" in path.stem else "svd"
    values = dict(VALUES)
    values["ExVideoSampler"] = {**SAMPLER[kind], "steps": 4}
    values["ExVideoSave"] = {"filename_prefix": f"exvideo/{path.stem}"}
    page.page.evaluate(SET_WIDGETS, values)
    page.page.evaluate(SET_KEYFRAMES, VALUES["ExVideoSVDConditioning"]["frames"])
    saves = len([node for node in graph["nodes"] if node["type"] == "ExVideoSave"])
    page.page.evaluate("app.queuePrompt(0)")
    page.page.wait_for_function(f"() => ({VIDEOS})().filter(Boolean).length === {saves}", timeout=300_000)
    page.picture(pictures / f"{path.stem}_played.png")

    assert complaints(page) == []
    assert page.errors == []
