"""Workflows as each release gave them to people: they open, mean what they meant, and run, for ever.

`tests/record_release.py` makes the files, one folder for each release. They are never edited.
"""

import json

import pytest
from in_comfyui import small
from saved_workflows import PROMPT, RELEASES, SAVED, place_files

from host.browser import find_chromium, open_page
from host.graph import read_graph, to_prompt

pytestmark = pytest.mark.comfyui

each_workflow = pytest.mark.parametrize("path", SAVED, ids=lambda path: f"{path.parent.name}-{path.stem}")


@pytest.fixture(scope="module")
def server(comfyui):
    place_files(comfyui.base, SAVED)
    return comfyui


@pytest.fixture(scope="module")
def info(server):
    return server.client.object_info()


def changes(path, prompt):
    """What differs from the prompt that the release made; inputs that came later are at their defaults."""
    recorded = json.loads(path.with_name(path.stem + PROMPT).read_text(encoding="utf-8"))
    assert {key: node["class_type"] for key, node in prompt.items()} == {
        key: node["class_type"] for key, node in recorded.items()
    }
    return {
        f"{node['class_type']}.{name}": (value, prompt[key]["inputs"].get(name))
        for key, node in recorded.items()
        for name, value in node["inputs"].items()
        if prompt[key]["inputs"].get(name) != value
    }


def test_first_release_is_among_them():
    assert {"0.1.0/exvideo_svd_128f.json", "0.1.0/exvideo_svd_upscale_1024.json"} <= {
        path.relative_to(RELEASES).as_posix() for path in SAVED
    }


@each_workflow
def test_saved_values_mean_the_same_and_it_runs(server, info, path):
    prompt = to_prompt(read_graph(path), info)
    assert changes(path, prompt) == {}

    assert server.client.run(small(path, info)).files


@pytest.fixture(scope="module")
def page(server):
    with open_page(server.url, size=(2000, 1000)) as page:
        yield page


@pytest.mark.browser
@pytest.mark.skipif(find_chromium() is None, reason="no Chromium is installed")
@each_workflow
def test_page_opens_it_with_the_same_values(page, path):
    assert page.load(read_graph(path)) == []
    assert changes(path, page.prompt()) == {}
