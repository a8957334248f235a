"""The page shows each node's help with its picture, and its texts in the language that is set."""

import pytest
from node_texts import HELP, LOCALES, read_locale

from host.browser import find_chromium, open_page

pytestmark = [
    pytest.mark.browser,
    pytest.mark.comfyui,
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium is installed"),
]

LANGUAGES = sorted(folder.name for folder in LOCALES.iterdir())
NODES = sorted(read_locale("en"))
OPEN_SEARCH = "app.extensionManager.command.execute('Workspace.SearchBox.Toggle')"
ADD = """types => { app.graph.clear(); types.forEach((type, i) => {
  const node = LiteGraph.createNode(type); app.graph.add(node);
  node.pos = [(i % 4) * 450, Math.floor(i / 4) * 520] }) }"""
SELECT = """type => { app.canvas.deselectAll();
  app.canvas.selectNode(app.graph._nodes.find(node => node.type === type)) }"""
PICTURES = """type => { const pictures = [...document.querySelectorAll('.node-help-content img')];
  return pictures.length > 0 && pictures.every(one => one.src.includes(`/${type}/`) && one.naturalWidth > 0) }"""
HELP_TEXT = "document.querySelector('.node-help-content').innerText"
LABELS = """() => Object.fromEntries(app.graph._nodes.map(node => [node.type, { title: node.title,
  inputs: Object.fromEntries(node.inputs.map(input => [input.name, input.localized_name])),
  outputs: node.outputs.map(output => output.localized_name) }]))"""
# What goes into a saved workflow, where nothing may be translated.
SAVED = """() => Object.fromEntries(app.graph.serialize().nodes.map(node => [node.type, {
  inputs: node.inputs.map(input => input.name), outputs: node.outputs.map(output => output.name),
  values: node.widgets_values }]))"""
WIDGET = """([type, name]) => { const node = app.graph._nodes.find(node => node.type === type);
  const widget = node.widgets.find(widget => widget.name === name), { scale, offset } = app.canvas.ds;
  const corner = app.canvas.canvas.getBoundingClientRect();
  return [corner.x + (node.pos[0] + 60 + offset[0]) * scale,
    corner.y + (node.pos[1] + widget.y + 10 + offset[1]) * scale] }"""


@pytest.fixture(scope="module", params=LANGUAGES)
def page(request, comfyui):
    with open_page(comfyui.url, size=(1900, 1300), locale=request.param) as page:
        page.language = request.param
        page.page.evaluate(ADD, NODES)
        yield page
    comfyui.client.post("/api/settings/Comfy.Locale", "en")  # the server would remember


def test_help_of_every_node_opens_with_its_picture(page):
    page.open_help(NODES[0])
    for node in NODES:
        page.page.evaluate(SELECT, node)
        page.page.wait_for_function(PICTURES, arg=node, timeout=10_000)
        first_words = (HELP / node / f"{page.language}.md").read_text(encoding="utf-8").partition("\n")[0]
        assert first_words.replace("`", "")[:20] in page.page.evaluate(HELP_TEXT)


def test_names_are_those_of_the_language(page):
    texts, labels = read_locale(page.language), page.page.evaluate(LABELS)

    for node in NODES:
        assert labels[node]["title"] == texts[node]["display_name"]
        assert labels[node]["inputs"] == {name: text["name"] for name, text in texts[node]["inputs"].items()}
        for i, shown in enumerate(labels[node]["outputs"]):
            assert shown == texts[node]["outputs"][str(i)].get("name", shown)


def test_tooltip_is_of_the_language(page, tmp_path):
    page.page.evaluate("app.canvas.deselectAll(); app.canvas.ds.scale = 0.7; app.canvas.ds.offset = [200, 200]")
    page.page.wait_for_timeout(300)
    page.page.mouse.move(*page.page.evaluate(WIDGET, ["ExVideoCogVideoXLatent", "frames"]))
    page.page.mouse.move(*page.page.evaluate(WIDGET, ["ExVideoCogVideoXLatent", "frames"]), steps=3)

    tooltip = read_locale(page.language)["ExVideoCogVideoXLatent"]["inputs"]["frames"]["tooltip"]
    page.page.get_by_text(tooltip).wait_for(timeout=5_000)
    page.page.screenshot(path=tmp_path / "tooltip.png")


def test_search_words_find_nodes(page):
    page.page.evaluate(OPEN_SEARCH)
    page.page.wait_for_function("document.activeElement?.tagName === 'INPUT'", timeout=10_000)
    page.page.keyboard.type("图生视频")  # whatever the language of the page
    title = read_locale(page.language)["ExVideoSVDConditioning"]["display_name"]
    page.page.wait_for_timeout(1500)  # until then the list is that of all nodes
    found = page.page.get_by_role("option").all_inner_texts()
    page.page.keyboard.press("Escape")
    assert [text for text in found if title in text], found[:5]
    assert len(found) < 10


def test_saved_names_and_values_are_not_translated(page, comfyui):
    info, saved = comfyui.client.object_info(), page.page.evaluate(SAVED)

    for node in NODES:
        inputs = {**info[node]["input"].get("required", {}), **info[node]["input"].get("optional", {})}
        assert set(saved[node]["inputs"]) == set(inputs)
        assert saved[node]["outputs"] == info[node]["output_name"]
        for kind, *rest in inputs.values():
            assert kind != "COMBO" or set(rest[0]["options"]) & set(saved[node]["values"])
