"""The page opens workflows; it is also what our conversion of saved graphs is compared with."""

import json

import pytest

from host.browser import find_chromium, open_page
from host.graph import to_prompt

pytestmark = [
    pytest.mark.browser,
    pytest.mark.comfyui,
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium is installed"),
]

# Everything a saved graph can hold, made by the page itself: a bypassed, a muted and a passed-on link, a primitive,
# a seed, a choice with inputs of its own, an upload, notes.
MAKE_GRAPH = """() => {
  app.graph.clear();
  const make = (type, x, y) => {
    const node = LiteGraph.createNode(type); node.pos = [x, y]; app.graph.add(node); return node };
  const widget = (node, name) => node.widgets.find(widget => widget.name === name);
  const color = make('EmptyImage', 0, 0), scale = make('ImageScale', 350, 0), invert = make('ImageInvert', 700, 0);
  const reroute = make('Reroute', 950, 0), video = make('CreateVideo', 1100, 0), save = make('SaveVideo', 1400, 0);
  const width = make('PrimitiveNode', 0, 250), sampler = make('KSampler', 0, 500);
  const picture = make('LoadImage', 400, 500), muted = make('ImageInvert', 750, 500);
  const show = make('PreviewImage', 1000, 500);
  make('Note', 1300, 500); make('MarkdownNote', 1600, 500);
  color.connect(0, scale, 0); scale.connect(0, invert, 0); invert.mode = 4; invert.connect(0, reroute, 0);
  reroute.connect(0, video, 0); video.connect(0, save, 0);
  width.connect(0, scale, scale.inputs.findIndex(input => input.name === 'width'));
  width.widgets[0].value = 96;
  picture.connect(0, muted, 0); muted.mode = 2; muted.connect(0, show, 0);
  widget(sampler, 'seed').value = 1234567890123; widget(sampler, 'cfg').value = 3.5;
  widget(save, 'codec').value = 'h264';
}"""


@pytest.fixture(scope="module")
def page(comfyui):
    with open_page(comfyui.url) as page:
        yield page


def test_conversion_equals_what_the_page_sends(page, comfyui):
    page.page.evaluate(MAKE_GRAPH)
    page.page.wait_for_timeout(1000)
    sent, saved = page.prompt(), page.graph()

    converted = to_prompt(json.loads(json.dumps(saved)), comfyui.client.object_info())

    assert {node["class_type"] for node in sent.values()} >= {"SaveVideo", "KSampler", "LoadImage"}
    assert {node_id: node["inputs"] for node_id, node in converted.items()} == {
        node_id: node["inputs"] for node_id, node in sent.items()
    }


def test_page_shows_a_good_graph_and_takes_its_picture(page, tmp_path):
    page.page.evaluate(MAKE_GRAPH)
    page.page.evaluate("app.graph._nodes.filter(n => n.pos[1] >= 500).forEach(n => app.graph.remove(n))")

    assert page.load(page.graph()) == []
    page.picture(tmp_path / "graph.png")
    assert (tmp_path / "graph.png").stat().st_size > 20_000  # an empty canvas is smaller


def test_page_reports_what_is_wrong_with_a_graph(page):
    page.page.evaluate(MAKE_GRAPH)
    graph = page.graph()
    kinds = {node["type"]: node for node in graph["nodes"]}
    kinds["EmptyImage"]["type"] = "NoSuchNode"
    kinds["ImageScale"]["widgets_values"][0] = "no such method"

    problems = "\n".join(page.load(graph))

    assert "unknown type" in problems
    assert "upscale_method = 'no such method' is not offered" in problems
    assert "(KSampler): model is required and open" in problems
