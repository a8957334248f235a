"""Turn a workflow as the ComfyUI page saves it into the prompt that the server runs.

A saved graph holds what the page shows: nodes with positions, links by number, and the values of a node's widgets as a
bare list. A prompt holds what is computed: for every node its class and each input by name. The order of the widgets is
not in the file; it follows from the node's definition (`GET /object_info`), and a few widgets exist on the page only.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .client import Prompt
from .errors import HostError

Graph = Mapping[str, Any]
ObjectInfo = Mapping[str, Any]

NOTES = ("Note", "MarkdownNote")
REROUTE, PRIMITIVE = "Reroute", "PrimitiveNode"  # exist on the page only, and pass something on
MUTED, BYPASSED = 2, 4  # a node's "mode"
WIDGET_TYPES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COLOR")
DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO_V3"  # a choice that brings inputs of its own


def read_graph(path: Path) -> Graph:
    """A workflow file."""
    if not path.is_file():
        raise HostError(f"there is no workflow {path}")
    graph: Graph = json.loads(path.read_text(encoding="utf-8"))
    return graph


def to_prompt(graph: Graph, object_info: ObjectInfo) -> Prompt:
    """The prompt of a saved graph; raises HostError where the page would show a node in red."""
    if (graph.get("definitions") or {}).get("subgraphs"):
        raise HostError("the workflow has subgraphs, which this converter does not read: unpack them in the page")
    nodes = {node["id"]: node for node in graph["nodes"]}
    links = dict(map(_read_link, graph["links"]))
    prompt: Prompt = {}
    for node in graph["nodes"]:
        if node["type"] in (*NOTES, REROUTE, PRIMITIVE) or node.get("mode") in (MUTED, BYPASSED):
            continue
        definition = object_info.get(node["type"])
        if definition is None:
            raise HostError(f"node {node['id']} is of type {node['type']!r}, which this server does not know")
        inputs = {name: _as_literal(value) for name, value in read_widgets(node, definition).items()}
        for entry in node.get("inputs", []):
            source = _find_source(entry.get("link"), nodes, links)
            if source is not None:
                inputs[entry["name"]] = source
        title = node.get("title") or definition.get("display_name") or node["type"]
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs, "_meta": {"title": title}}
    return prompt


def nodes_of(prompt: Prompt, class_type: str) -> list[dict[str, Any]]:
    """The prompt's nodes of one class; change their "inputs" to change what is run."""
    return [node for node in prompt.values() if node["class_type"] == class_type]


def read_widgets(node: Mapping[str, Any], definition: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a saved node's widgets, by input name; what the file does not hold has its default."""
    values = node.get("widgets_values") or []
    if isinstance(values, Mapping):  # some packs save names
        return {name: values[name] for name, _, _ in _inputs_in_order(definition) if name in values}
    shown = {entry["name"] for entry in node.get("inputs", []) if "widget" in entry}
    read: dict[str, Any] = {}
    remaining = iter(values)
    for name, kind, options in _inputs_in_order(definition):
        if _is_widget(kind, options) or name in shown:
            _take(name, kind, options, remaining, read)
    return read  # what remains belongs to buttons, such as the upload button of Load Image


def _take(name: str, kind: Any, options: Mapping[str, Any], remaining: Iterator[Any], read: dict[str, Any]) -> None:
    """Move one widget's value, and those of the inputs it brings along, from `remaining` to `read`."""
    read[name] = next(remaining, _default(kind, options))
    if _has_seed_control(name, kind, options):
        next(remaining, None)  # "control after generate": what the page does with the seed after a run
    if kind == DYNAMIC_COMBO:
        for option in options["options"]:
            if option["key"] == read[name]:
                for inner_name, inner_kind, inner_options in _inputs_in_order({"input": option["inputs"]}):
                    if _is_widget(inner_kind, inner_options):
                        _take(f"{name}.{inner_name}", inner_kind, inner_options, remaining, read)


def _inputs_in_order(definition: Mapping[str, Any]) -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    """Name, type and options of every input, in the order in which the page shows them."""
    for group in ("required", "optional"):
        inputs = definition["input"].get(group) or {}
        for name in (definition.get("input_order") or {}).get(group) or inputs:
            specification = inputs[name]
            yield name, specification[0], specification[1] if len(specification) > 1 else {}


def _is_widget(kind: Any, options: Mapping[str, Any]) -> bool:
    if options.get("forceInput"):
        return False
    return isinstance(kind, list) or kind in (*WIDGET_TYPES, DYNAMIC_COMBO)  # a list: the choices of an older combo


def _has_seed_control(name: str, kind: Any, options: Mapping[str, Any]) -> bool:
    asked = options.get("control_after_generate")
    if asked is None:
        return kind == "INT" and name in ("seed", "noise_seed")  # the page adds it to these without being asked
    return bool(asked)


def _default(kind: Any, options: Mapping[str, Any]) -> Any:
    if "default" in options:
        return options["default"]
    choices = kind if isinstance(kind, list) else options.get("options")
    if choices:
        return choices[0]["key"] if kind == DYNAMIC_COMBO else choices[0]
    return {"INT": 0, "FLOAT": 0.0, "STRING": "", "BOOLEAN": False}.get(str(kind))


def _as_literal(value: Any) -> Any:
    # a bare list in a prompt is a link
    return {"__value__": value} if isinstance(value, list) else value


def _read_link(link: Any) -> tuple[int, tuple[int, int, Any]]:
    """Id of a link, and where it starts: node, slot, type. Graph files hold links as lists or as objects."""
    if isinstance(link, Mapping):
        return link["id"], (link["origin_id"], link["origin_slot"], link.get("type"))
    return link[0], (link[1], link[2], link[5])


def _find_source(link: int | None, nodes: Mapping[int, Any], links: Mapping[int, tuple[int, int, Any]]) -> Any:
    """What an input gets through its link: [node id, output], a primitive's value, or None for nothing."""
    if link is None:
        return None
    if link not in links:
        raise HostError(f"the workflow has an input with link {link}, which is not among its links")
    origin_id, slot, kind = links[link]
    origin = nodes[origin_id]
    if origin.get("mode") == MUTED:
        return None
    if origin.get("mode") == BYPASSED or origin["type"] == REROUTE:
        return _find_source(_passed_on(origin, slot, kind), nodes, links)
    if origin["type"] == PRIMITIVE:
        return _as_literal(origin["widgets_values"][0])
    return [str(origin_id), slot]


def _passed_on(node: Mapping[str, Any], slot: int, kind: Any) -> int | None:
    """The link that a bypassed node hands to its output `slot`: that of the same slot, else of the same type."""
    inputs = node.get("inputs", [])
    for entry in [*inputs[slot : slot + 1], *inputs]:
        if node["type"] == REROUTE or entry["type"] == kind:
            link: int | None = entry.get("link")
            return link
    return None
