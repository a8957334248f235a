"""ComfyUI-Manager's lists: who misses one of the nodes in a workflow is led to this pack."""

import ast
import json
import re
from pathlib import Path

from test_packaging import PROJECT, our_files

ROOT = Path(__file__).resolve().parents[1]
PUBLISHING = ROOT / "docs" / "publishing"
ADDRESS = PROJECT["project"]["urls"]["Repository"]


def read(name):
    return json.loads((PUBLISHING / name).read_text(encoding="utf-8"))


def ids_in(text):
    """What Manager's scanner finds without running anything: classes on ComfyNode whose schema has a literal id."""
    for node in ast.walk(ast.parse(text)):
        bases = [ast.unparse(base) for base in node.bases] if isinstance(node, ast.ClassDef) else []
        if any(base == "ComfyNode" or base.endswith(".ComfyNode") for base in bases):
            for call in (part for part in ast.walk(node) if isinstance(part, ast.Call)):
                if ast.unparse(call.func).rpartition(".")[2] == "Schema":
                    ids = (word.value for word in call.keywords if word.arg == "node_id")
                    yield from (each.value for each in ids if isinstance(each, ast.Constant))


def scanned():
    """Over the whole repository, as the scanner goes: a node in a test would count as one of the pack's."""
    return sorted(found for file in our_files(".py") for found in ids_in((ROOT / file).read_text(encoding="utf-8")))


def test_node_map_is_what_the_scanner_finds():
    assert read("extension-node-map.json") == {ADDRESS: [scanned(), {"title_aux": "ExVideo"}]}


def test_scanner_finds_exactly_the_nodes():
    listed = ast.parse((ROOT / "nodes" / "__init__.py").read_text(encoding="utf-8"))
    (method,) = (node for node in ast.walk(listed) if getattr(node, "name", "") == "get_node_list")
    (names,) = (node for node in ast.walk(method) if isinstance(node, ast.List))
    shared = [element for element in names.elts if not isinstance(element, ast.Starred)]  # starred: the adapters'
    adapters = [ast.parse(file.read_text(encoding="utf-8")) for file in (ROOT / "nodes").glob("*/adapter.py")]
    words = (node for adapter in adapters for node in ast.walk(adapter) if isinstance(node, ast.keyword))
    of_families = [element for word in words if word.arg == "nodes" for element in word.value.elts]

    # every class is named as its id
    assert scanned() == sorted(element.attr for element in (*shared, *of_families))


def test_scanner_finds_no_other_kind_of_node():
    for file in our_files(".py"):
        text = (ROOT / file).read_text(encoding="utf-8")
        assert not re.search(r"_CLASS_MAPPINGS\s*(=|\[|\.up)", text), file


def test_entry_of_the_pack():
    (entry,) = read("custom-node-list.json")["custom_nodes"]

    assert entry["id"] == PROJECT["project"]["name"]
    assert entry["title"] == PROJECT["tool"]["comfy"]["DisplayName"]
    assert entry["reference"] == ADDRESS
    assert entry["files"] == [ADDRESS]
    assert entry["install_type"] == "git-clone"
    assert entry["author"]
    assert len(entry["description"]) < 300
