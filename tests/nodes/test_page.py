"""What a person sees: workflows open without complaints, the video appears, and dropped back it is the graph again."""

import pytest
from in_comfyui import COGVIDEOX_WORKFLOW, SMALL, SVD_WORKFLOW, WORKFLOWS, place_files

from host.browser import find_chromium, open_page
from host.graph import read_graph

pytestmark = [
    pytest.mark.browser,
    pytest.mark.comfyui,
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium is installed"),
]

SET_WIDGETS = """values => { for (const node of app.graph._nodes)
  for (const [name, value] of Object.entries(values[node.type] ?? {}))
    node.widgets.find(widget => widget.name === name).value = value }"""
IS_SHOWN = """() => { const node = app.graph._nodes.find(node => node.type === 'ExVideoSave');
  return (node.widgets ?? []).some(widget => widget.element?.querySelector?.('video')?.videoWidth > 0) }"""
DROP = """async ({ url, name }) => { app.graph.clear();
  const blob = await (await fetch(url)).blob();
  await app.handleFile(new File([blob], name, { type: blob.type })) }"""
TYPES = "app.graph._nodes.map(node => node.type).sort()"


@pytest.fixture(scope="module")
def page(comfyui):
    place_files(comfyui.base, WORKFLOWS)
    with open_page(comfyui.url, size=(2000, 1000)) as page:
        yield page


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_opens_without_complaints(page, path, tmp_path):
    assert page.load(read_graph(path)) == []
    page.picture(tmp_path / "page.png")


@pytest.mark.parametrize("path", [SVD_WORKFLOW, COGVIDEOX_WORKFLOW], ids=lambda path: path.stem)
def test_video_is_shown_and_dropped_back_restores_the_graph(page, comfyui, path, tmp_path):
    page.load(read_graph(path))
    page.page.evaluate(SET_WIDGETS, {**SMALL, "ExVideoSave": {"filename_prefix": f"exvideo/{path.stem}"}})
    sent = page.prompt()
    page.page.evaluate("app.queuePrompt(0)")
    page.page.wait_for_function(IS_SHOWN, timeout=120_000)
    page.picture(tmp_path / "shown.png")

    name = f"{path.stem}_00001_.mp4"
    page.page.evaluate(DROP, {"url": f"/view?filename={name}&subfolder=exvideo&type=output", "name": name})
    page.page.wait_for_timeout(1500)

    assert page.page.evaluate(TYPES) == sorted(node["type"] for node in read_graph(path)["nodes"])
    assert {i: node["inputs"] for i, node in page.prompt().items()} == {i: node["inputs"] for i, node in sent.items()}
