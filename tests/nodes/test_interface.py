"""Workflows that people have saved keep working: nothing of a released node is renamed, moved or taken away."""

import copy
import importlib
import re

import pytest
from interface import broken, describe, misfits, read_record

OLD, NEW = "ExVideoSampler", "ExVideoSampler2"


@pytest.fixture(scope="module")
def interface(pack):
    return {node.GET_SCHEMA().node_id: describe(node.GET_NODE_INFO_V1()) for node in pack.nodes}


@pytest.fixture(scope="module")
def replacements(pack):
    return importlib.import_module(".replacements", pack.sampler.__package__).REPLACEMENTS


def test_released_interface_is_kept(replacements, interface):
    replaced = [entry.old_node_id for entry in replacements]

    assert broken(read_record(), interface, replaced) == []


def test_every_replacement_fits(replacements, interface):
    problems = {entry.old_node_id: list(misfits(entry.as_dict(), read_record(), interface)) for entry in replacements}

    assert not any(problems.values()), problems


@pytest.fixture
def changed():
    return copy.deepcopy(read_record())


def test_additions_at_the_end_are_allowed(changed):
    changed[NEW] = changed[OLD]
    changed[OLD]["inputs"]["another"] = {"type": "INT", "optional": True, "default": 1}
    changed[OLD]["inputs"]["normalize"]["options"].append("often")
    changed[OLD]["inputs"]["steps"]["max"] += 1
    changed[OLD]["outputs"].append("IMAGE")

    assert broken(read_record(), changed) == []


def rename_input(node):
    node["inputs"] = {"speed" if name == "seed" else name: given for name, given in node["inputs"].items()}


def reorder_inputs(node):
    node["inputs"] = dict(sorted(node["inputs"].items()))


def insert_input(node):
    node["inputs"] = {"first": {"type": "INT", "optional": True, "default": 1}, **node["inputs"]}


def require_more(node):
    node["inputs"]["another"] = {"type": "INT", "default": 1}


def change_type(node):
    node["inputs"]["steps"]["type"] = "FLOAT"


def change_default(node):
    node["inputs"]["method"]["default"] = "ddim"


def require_optional(node):
    del node["inputs"]["method"]["optional"]


def narrow_range(node):
    node["inputs"]["steps"]["max"] = 20


def drop_choice(node):
    node["inputs"]["normalize"]["options"].remove("on")


def add_control(node):
    del node["inputs"]["seed"]["control_after_generate"]


def change_outputs(node):
    node["outputs"].insert(0, "IMAGE")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (rename_input, r"\['seed'\] are gone"),
        (reorder_inputs, "new ones come last"),
        (insert_input, "new ones come last"),
        (require_more, "another is new and required"),
        (change_type, "steps was INT and is now FLOAT"),
        (change_default, "method had default 'auto'"),
        (require_optional, "method was optional"),
        (narrow_range, "took 1 to 1000 and now takes 1 to 20"),
        (drop_choice, r"no longer offers \['on'\]"),
        (add_control, "seed had control_after_generate True"),
        (change_outputs, "outputs were"),
    ],
    ids=lambda value: getattr(value, "__name__", "said"),
)
def test_what_breaks_saved_workflows_is_found(changed, change, said):
    change(changed[OLD])

    assert re.search(rf"{OLD}: .*{said}.*nodes/replacements.py", broken(read_record(), changed)[0])


def test_node_may_go_only_when_something_takes_its_place(changed):
    del changed[OLD]

    assert broken(read_record(), changed, [OLD]) == []
    assert [line.partition(". ")[0] for line in broken(read_record(), changed)] == [f"{OLD} is gone"]


@pytest.fixture
def replacement():
    """Of the sampler by one that calls its steps differently."""
    names = [*read_record()[OLD]["inputs"]]
    return {
        "new_node_id": NEW,
        "old_node_id": OLD,
        "old_widget_ids": ["seed", "control_after_generate", *names[names.index("steps") :]],
        "input_mapping": [{"new_id": "count" if name == "steps" else name, "old_id": name} for name in names],
        "output_mapping": [{"old_idx": 0, "new_idx": 0}],
    }


@pytest.fixture
def renamed(changed):
    node = changed.pop(OLD)
    node["inputs"] = {"count" if name == "steps" else name: given for name, given in node["inputs"].items()}
    return {**changed, NEW: node}


def test_complete_replacement_fits(replacement, renamed):
    assert list(misfits(replacement, read_record(), renamed)) == []


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("new_node_id", "ExVideoNone", "to one that there is"),
        ("old_widget_ids", ["seed"], "the old node's widgets"),
        ("input_mapping", [{"new_id": "steps", "old_id": "steps"}], "has no input ['steps']"),
        ("input_mapping", [{"new_id": "count", "old_id": "count"}], "had no input ['count']"),
        ("input_mapping", None, "nothing is said about"),
        ("output_mapping", None, "output 0 (LATENT) leads to none"),
    ],
)
def test_what_a_replacement_lacks_is_found(replacement, renamed, key, value, said):
    replacement[key] = value

    assert said in "; ".join(misfits(replacement, read_record(), renamed))
