"""What the server's own checks would say about a prompt, without running it."""

from collections.abc import Iterator, Mapping
from typing import Any

from .client import Prompt


def find_problems(prompt: Prompt, object_info: Mapping[str, Any]) -> list[str]:
    """One line for each unknown class, open input, wrong link type, value not offered and number out of range.

    The inputs that a dynamic choice brings along are not looked into.
    """
    return [f"node {node_id} {line}" for node_id in prompt for line in _node_problems(node_id, prompt, object_info)]


def _node_problems(node_id: str, prompt: Prompt, object_info: Mapping[str, Any]) -> Iterator[str]:
    node = prompt[node_id]
    definition = object_info.get(node["class_type"])
    if definition is None:
        yield f"is of unknown type {node['class_type']!r}"
        return
    for group in ("required", "optional"):
        for name, specification in (definition["input"].get(group) or {}).items():
            kind, options = specification[0], specification[1] if len(specification) > 1 else {}
            complaint = None
            if name in node["inputs"]:
                complaint = _value_problem(node["inputs"][name], kind, options, prompt, object_info)
            elif group == "required" and not str(kind).startswith("COMFY_"):
                complaint = "is required and open"
            if complaint:
                yield f"({node['class_type']}): {name} {complaint}"


def _value_problem(
    value: Any, kind: Any, options: Mapping[str, Any], prompt: Prompt, object_info: Mapping[str, Any]
) -> str | None:
    if isinstance(value, list):
        return _link_problem(value, kind, prompt, object_info)
    choices = kind if isinstance(kind, list) else options.get("options") if kind == "COMBO" else None
    if choices is not None and value not in choices:
        return f"= {value!r} is not offered; there are {choices[:8]}"
    if kind in ("INT", "FLOAT"):
        low, high = options.get("min", value), options.get("max", value)
        if not low <= value <= high:
            return f"= {value} is not within {low} and {high}"
    return None


def _link_problem(link: list[Any], kind: Any, prompt: Prompt, object_info: Mapping[str, Any]) -> str | None:
    source = prompt.get(str(link[0]))
    if source is None:
        return f"is linked to node {link[0]}, which does not exist"
    outputs = object_info.get(source["class_type"], {}).get("output", [])
    if link[1] >= len(outputs):
        return None  # an unknown type, which is reported by itself, or outputs that depend on a choice
    offered = outputs[link[1]]
    if not isinstance(offered, str) or not isinstance(kind, str) or kind.startswith("COMFY_"):
        return None
    if "*" in (offered, kind) or set(offered.split(",")) & set(kind.split(",")):
        return None
    return f"takes {kind} and is linked to {offered}"
