"""Workflow files, read without ComfyUI: which files they name, what their notes say, how they look."""

import itertools

import pytest
from in_comfyui import WORKFLOWS
from PIL import Image

from exvideo_core.hub import catalog
from host.graph import read_graph

LOADERS = {
    "ExVideoSVDLoader": ["checkpoints", "exvideo"],
    "ExVideoCogVideoXLoader": ["diffusion_models", "diffusion_models", "text_encoders", "vae"],
    "ExVideoLoRAApply": ["loras"],
    "CheckpointLoaderSimple": ["checkpoints"],
    "UpscaleModelLoader": ["upscale_models"],
    "FrameInterpolationModelLoader": ["frame_interpolation"],
}
# what makes ComfyUI offer a missing file; its page takes only what a widget of that node names
OURS = {file.name: {"name": file.name, "url": file.url, "directory": file.folder} for file in catalog.files()}
DEMO = "exvideo_demo"
BLUEPRINTS = sorted((WORKFLOWS[0].parents[1] / "subgraphs").glob("*.json"))
each_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def note_of(nodes):
    (note,) = [node["widgets_values"][0] for node in nodes if node["type"] == "MarkdownNote"]
    return note


@each_workflow
def test_its_loaders_offer_their_files_and_the_note_says_where_they_go(path):
    nodes = read_graph(path)["nodes"]
    for node in nodes:
        models = node["properties"].get("models", [])
        assert [model["directory"] for model in models] == ([] if path.stem == DEMO else LOADERS.get(node["type"], []))
        for model in models:
            # ComfyUI offers what a widget names; a transformer's second half comes with its first
            assert model["name"] in node["widgets_values"] or "00002-of" in model["name"]
            assert model["name"] in note_of(nodes)
            assert f"models/{model['directory']}`" in note_of(nodes)
            assert model["url"].startswith("https://huggingface.co/")
            if node["type"].startswith("ExVideo"):
                assert model == OURS[model["name"]]
            else:
                assert model["url"].endswith(f"/{model['name']}")


@pytest.mark.parametrize("path", BLUEPRINTS, ids=lambda path: path.stem)
def test_loaders_of_a_blueprint_offer_their_files(path):
    (subgraph,) = read_graph(path)["definitions"]["subgraphs"]
    loaders = [node for node in subgraph["nodes"] if node["type"] in LOADERS]

    assert loaders
    for node in loaders:
        models = node["properties"]["models"]
        assert [model["directory"] for model in models] == LOADERS[node["type"]]
        assert models == [OURS[model["name"]] for model in models]
        assert all(model["name"] in node["widgets_values"] or "00002-of" in model["name"] for model in models)


def test_the_demo_needs_no_file_but_comfyuis_own_picture():
    nodes = read_graph(WORKFLOWS[0].with_name(f"{DEMO}.json"))["nodes"]
    loaders = [node["widgets_values"] for node in nodes if node["type"] in LOADERS]

    assert len(loaders) == 3
    assert all(str(value).startswith(("demo ", "default")) or value == 1.0 for values in loaders for value in values)
    assert [node["widgets_values"][0] for node in nodes if node["type"] == "LoadImage"] == ["example.png"]


@each_workflow
def test_its_note_says_what_to_change_first(path):
    note = note_of(read_graph(path)["nodes"])

    assert note.startswith("# ")
    assert "## What to change first" in note


@each_workflow
def test_its_picture_is_small_and_wide(path):
    file = path.with_suffix(".jpg")

    assert file.stat().st_size < 60_000
    with Image.open(file) as picture:
        assert picture.width >= picture.height >= 200


def test_every_picture_belongs_to_a_workflow():
    assert [path.stem for path in sorted(WORKFLOWS[0].parent.glob("*.jpg"))] == [path.stem for path in WORKFLOWS]


@each_workflow
def test_its_nodes_do_not_overlap(path):
    boxes = [
        (n["pos"][0], n["pos"][1] - 30, n["pos"][0] + n["size"][0], n["pos"][1] + n["size"][1])
        for n in read_graph(path)["nodes"]
    ]
    for a, b in itertools.combinations(boxes, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], (a, b)


@each_workflow
def test_every_node_lies_in_one_group_or_in_none(path):
    graph = read_graph(path)
    groups = [(x, y, x + width, y + height) for x, y, width, height in (g["bounding"] for g in graph["groups"])]
    for node in graph["nodes"]:
        left, top = node["pos"]
        right, bottom = left + node["size"][0], top + node["size"][1]
        inside = [g for g in groups if g[0] <= left and g[1] <= top - 30 and right <= g[2] and bottom <= g[3]]
        touched = [g for g in groups if left < g[2] and g[0] < right and top - 30 < g[3] and g[1] < bottom]
        assert inside == touched, node["type"]
