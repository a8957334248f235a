"""What saved workflows rely on: ids, inputs and outputs of nodes, and which changes of them would break a workflow.

A graph file holds the values of widgets as a bare list and links by position, so order counts as much as names.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

Interface = dict[str, dict[str, Any]]  # by node id

RECORD = Path(__file__).with_name("nodes") / "interface.json"
WHAT_TO_DO = (
    "Workflows are saved with it as it was. Put it back; or give the changed node a new id, and tell "
    "nodes/replacements.py what of the old node goes where."
)
_KEPT = ("default", "min", "max", "options", "control_after_generate", "forceInput", "socketless")


def describe(definition: Mapping[str, Any]) -> dict[str, Any]:
    """A node's part of the interface, from what `/object_info` says of it; inputs in the page's order."""
    inputs = {}
    for group in ("required", "optional"):
        for name, (kind, *rest) in (definition["input"].get(group) or {}).items():
            options = rest[0] if rest else {}
            kept = {key: options[key] for key in _KEPT if options.get(key) is not None}
            inputs[name] = {"type": kind, **({"optional": True} if group == "optional" else {}), **kept}
    return {"inputs": inputs, "outputs": list(definition["output"])}


def read_record() -> Interface:
    """The interface as it was last released."""
    record: Interface = json.loads(RECORD.read_text(encoding="utf-8"))
    return record


def broken(old: Interface, new: Interface, replaced: Sequence[str] = ()) -> list[str]:
    """One sentence for each thing that workflows saved with `old` rely on and that `new` has no more.

    Args:
        replaced: ids of nodes that may be missing, because something takes their place.
    """
    lines = []
    for node_id, before in old.items():
        if node_id in new:
            lines += [f"{node_id}: {line}" for line in _broken_node(before, new[node_id])]
        elif node_id not in replaced:
            lines.append(f"{node_id} is gone")
    return [f"{line}. {WHAT_TO_DO}" for line in lines]


def widgets(node: Mapping[str, Any]) -> list[str]:
    """What the list of values in a graph file holds, in its order: inputs, and what the page does with a seed."""
    names = []
    for name, given in node["inputs"].items():
        if given["type"] in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO") and not given.get("forceInput"):
            names.append(name)
        if given.get("control_after_generate", name in ("seed", "noise_seed")):  # the page's own choice for these two
            names.append("control_after_generate")
    return names


def misfits(replacement: Mapping[str, Any], old: Interface, new: Interface) -> Iterator[str]:
    """What is wrong with an entry of nodes/replacements.py, as `io.NodeReplace.as_dict` gives it."""
    before, after = old.get(replacement["old_node_id"]), new.get(replacement["new_node_id"])
    if before is None or after is None:
        yield "it must lead from a node of tests/nodes/interface.json to one that there is"
        return
    if replacement["old_widget_ids"] != widgets(before):
        yield f"old_widget_ids must be the old node's widgets: {widgets(before)}"
    inputs = replacement["input_mapping"] or []
    if unknown := {entry["new_id"] for entry in inputs} - after["inputs"].keys():
        yield f"the new node has no input {sorted(unknown)}"
    if unknown := {entry["old_id"] for entry in inputs if "old_id" in entry} - before["inputs"].keys():
        yield f"the old node had no input {sorted(unknown)}"
    required = {name for name, given in after["inputs"].items() if not given.get("optional")}
    if forgotten := required - {entry["new_id"] for entry in inputs}:
        yield f"nothing is said about {sorted(forgotten)}, which the new node requires"
    outputs = {entry["old_idx"]: entry["new_idx"] for entry in replacement["output_mapping"] or []}
    for index, kind in enumerate(before["outputs"]):
        there = outputs.get(index)
        if there is None or after["outputs"][there : there + 1] != [kind]:
            yield f"output {index} ({kind}) leads to none of its type"


def _broken_node(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    old, new = before["inputs"], after["inputs"]
    if gone := [name for name in old if name not in new]:
        yield f"inputs {gone} are gone"
    elif list(new)[: len(old)] != list(old):
        yield f"inputs were {list(old)} and are now {list(new)}; new ones come last"
    for name, given in new.items():
        if name in old:
            yield from (f"input {name} {line}" for line in _broken_input(old[name], given))
        elif not given.get("optional"):
            yield f"input {name} is new and required, so it must be optional"
    if after["outputs"][: len(before["outputs"])] != before["outputs"]:
        yield f"outputs were {before['outputs']} and are now {after['outputs']}; new ones come last"


def _broken_input(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    if old["type"] != new["type"]:
        yield f"was {old['type']} and is now {new['type']}"
        return
    if old.get("optional") and not new.get("optional"):
        yield "was optional and is now required"
    if lost := [value for value in old.get("options", ()) if value not in new.get("options", ())]:
        yield f"no longer offers {lost}"
    if new.get("min", 0) > old.get("min", 0) or new.get("max", 0) < old.get("max", 0):
        yield f"took {old.get('min')} to {old.get('max')} and now takes {new.get('min')} to {new.get('max')}"
    # the file has the value of a required input; where an optional one is not in it, the default is what was meant
    meant = ("default",) if old.get("optional") else ()
    for key in (*meant, "control_after_generate", "forceInput", "socketless"):
        if old.get(key) != new.get(key):
            yield f"had {key} {old.get(key)!r} and now has {new.get(key)!r}"
