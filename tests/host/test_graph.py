"""The conversion of saved workflows; test_browser.py compares it with the page's own."""

from typing import Any

import pytest

from host.errors import HostError
from host.graph import to_prompt

OBJECT_INFO: dict[str, Any] = {
    "Source": {"input": {"required": {"size": ["INT", {"default": 8}]}}, "display_name": "A source"},
    "Filter": {"input": {"required": {"image": ["IMAGE"], "amount": ["FLOAT", {"default": 0.5}]}}},
    "Mixed": {
        "input": {
            "required": {"b": ["INT", {}], "a": [["x", "y"]], "seed": ["INT", {}]},
            "optional": {"text": ["STRING", {}], "forced": ["INT", {"forceInput": True}]},
        },
        "input_order": {"required": ["a", "seed", "b"], "optional": ["forced", "text"]},
    },
    "LoadImage": {"input": {"required": {"image": ["COMBO", {"image_upload": True, "options": ["a.png"]}]}}},
    "Save": {
        "input": {
            "required": {
                "codec": [
                    "COMFY_DYNAMICCOMBO_V3",
                    {
                        "options": [
                            {"key": "auto", "inputs": {}},
                            {"key": "h264", "inputs": {"required": {"crf": ["INT", {"default": 23}]}}},
                        ]
                    },
                ],
                "name": ["STRING", {"default": "video"}],
            }
        }
    },
}


def node(node_id: int, kind: str, values: Any = (), *, inputs: Any = (), mode: int = 0) -> dict[str, Any]:
    """A saved node; `inputs` are (name, type, link)."""
    entries = [{"name": name, "type": type_, "link": link} for name, type_, link in inputs]
    return {"id": node_id, "type": kind, "mode": mode, "widgets_values": values, "inputs": entries}


def inputs_of(*nodes: dict[str, Any], links: Any = ()) -> dict[str, Any]:
    """The inputs in the prompt of each node."""
    prompt = to_prompt({"nodes": nodes, "links": links}, OBJECT_INFO)
    return {node_id: entry["inputs"] for node_id, entry in prompt.items()}


def test_widgets_follow_the_definition_and_the_seeds_extra_widget_is_left_out():
    values = ["y", 77, "randomize", 5, "hello"]

    assert inputs_of(node(1, "Mixed", values)) == {"1": {"a": "y", "seed": 77, "b": 5, "text": "hello"}}


def test_widgets_can_be_saved_by_name():
    assert inputs_of(node(1, "Mixed", {"b": 5, "videopreview": {}})) == {"1": {"b": 5}}


def test_widgets_that_the_file_does_not_hold_have_their_defaults():
    assert inputs_of(node(1, "Mixed", [])) == {"1": {"a": "x", "seed": 0, "b": 0, "text": ""}}


def test_upload_button_is_not_an_input():
    assert inputs_of(node(1, "LoadImage", ["a.png", "image"])) == {"1": {"image": "a.png"}}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["auto", "clip"], {"codec": "auto", "name": "clip"}),
        (["h264", 18, "clip"], {"codec": "h264", "codec.crf": 18, "name": "clip"}),
    ],
)
def test_dynamic_choice_brings_its_inputs(values, expected):
    assert inputs_of(node(1, "Save", values)) == {"1": expected}


@pytest.mark.parametrize(
    "link",
    [[4, 1, 0, 2, 0, "IMAGE"], {"id": 4, "origin_id": 1, "origin_slot": 0, "type": "IMAGE"}],
    ids=["list", "object"],
)
def test_links_are_read_in_both_forms(link):
    saved = [node(1, "Source", [8]), node(2, "Filter", [0.1], inputs=[("image", "IMAGE", 4)])]

    assert inputs_of(*saved, links=[link])["2"] == {"amount": 0.1, "image": ["1", 0]}


def test_linked_widget_takes_the_link():
    saved = [node(1, "Source", [8]), node(2, "Filter", [0.1], inputs=[("amount", "FLOAT", 4)])]

    assert inputs_of(*saved, links=[[4, 1, 0, 2, 0, "FLOAT"]])["2"] == {"amount": ["1", 0]}


@pytest.mark.parametrize(("kind", "mode"), [("Filter", 4), ("Reroute", 0)], ids=["bypassed", "reroute"])
def test_link_passes_through(kind, mode):
    saved = [
        node(1, "Source", [8]),
        node(2, kind, [0.1], inputs=[("mask", "MASK", None), ("image", "IMAGE", 4)][kind == "Reroute" :], mode=mode),
        node(3, "Filter", [0.2], inputs=[("image", "IMAGE", 5)]),
    ]

    found = inputs_of(*saved, links=[[4, 1, 0, 2, 0, "IMAGE"], [5, 2, 0, 3, 0, "IMAGE"]])

    assert found == {"1": {"size": 8}, "3": {"amount": 0.2, "image": ["1", 0]}}


def test_muted_node_leaves_its_link_open():
    saved = [node(1, "Source", [8], mode=2), node(2, "Filter", [0.1], inputs=[("image", "IMAGE", 4)])]

    assert inputs_of(*saved, links=[[4, 1, 0, 2, 0, "IMAGE"]]) == {"2": {"amount": 0.1}}


def test_primitive_gives_its_value():
    saved = [node(1, "PrimitiveNode", [99, "fixed"]), node(2, "Source", [8], inputs=[("size", "INT", 4)])]

    assert inputs_of(*saved, links=[[4, 1, 0, 2, 0, "INT"]]) == {"2": {"size": 99}}


def test_list_value_is_not_taken_for_a_link():
    assert inputs_of(node(1, "Source", [[1, 2]])) == {"1": {"size": {"__value__": [1, 2]}}}


def test_notes_are_skipped():
    assert inputs_of(node(1, "Note", ["text"]), node(2, "MarkdownNote", ["text"])) == {}


def test_unknown_node_is_named():
    with pytest.raises(HostError, match="node 7 is of type 'Nope'"):
        to_prompt({"nodes": [node(7, "Nope")], "links": []}, OBJECT_INFO)


def test_subgraphs_are_refused():
    with pytest.raises(HostError, match="unpack them"):
        to_prompt({"nodes": [], "links": [], "definitions": {"subgraphs": [{"id": "s"}]}}, OBJECT_INFO)
