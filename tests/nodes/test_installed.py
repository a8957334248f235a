"""The pack as people install it: under any folder name, on ComfyUI's allow list, beside folders of models elsewhere.

And a workflow saved with a node that has another name today.
"""

import json
import sys
from pathlib import Path
from urllib.parse import quote, unquote

import pytest
from in_comfyui import SMALL, WORKFLOWS, change, save_narrow_files
from saved_workflows import FIRST, place_files

from host.browser import find_chromium, open_page
from host.client import Client
from host.comfyui_trees import NEWEST
from host.environment import Environment
from host.graph import read_graph, to_prompt
from host.server import Server

ROOT = Path(__file__).resolve().parents[2]
PACK = "ComfyUI-ExVideo"
pytestmark = pytest.mark.comfyui

# From the registry, which takes the project's name; from the web site's zip; from a zip that was there before.
NAMES = ("exvideo", "ComfyUI-ExVideo-main", "ExVideo-0.2.0(1)")
NOT_SERVED = "ExVideo v0.2 扩展"  # by ComfyUI, whichever pack it is; the nodes work
RENAMING = "renaming"
WEB = sorted(path for path in (ROOT / "web").rglob("*") if path.is_file())
OLD_NAMES = {"model": "network", "seed": "noise_seed", "steps": "count"}  # as in tests/renaming_pack


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    tree = Environment(ROOT).tree(NEWEST)
    if not (tree / "main.py").exists():
        pytest.skip(f"no ComfyUI in {tree}: `python run.py test` puts one there")
    base, elsewhere = tmp_path_factory.mktemp("Mein ComfyUI ü"), tmp_path_factory.mktemp("elsewhere")
    save_narrow_files(elsewhere)[1].rename(elsewhere / "theirs.safetensors")
    paths = base / "paths.yaml"
    paths.write_text(json.dumps({"drive": {"base_path": str(elsewhere), "exvideo": "."}}), encoding="utf-8")
    packs = {
        **dict.fromkeys([NOT_SERVED, *NAMES], ROOT),
        RENAMING: ROOT / "tests" / "renaming_pack",
        "not_allowed": ROOT,
    }
    allowed = ["--disable-all-custom-nodes", "--whitelist-custom-nodes", NOT_SERVED, *NAMES, RENAMING]
    arguments = ["--cpu", "--extra-model-paths-config", str(paths), *allowed]
    with Server(Path(sys.executable), tree, base, packs=packs, arguments=arguments) as running:
        place_files(base, [FIRST])
        yield running


@pytest.fixture(scope="module")
def client(server):
    return Client(server.url)


def test_imports_under_every_name(server, client):
    log = server.read_log()
    homes = {node["python_module"] for name, node in client.object_info().items() if name.startswith("ExVideo")}

    assert server.failed_imports() == []
    assert homes
    assert homes <= {f"custom_nodes.{name}" for name in (NOT_SERVED, *NAMES)}
    for name in (NOT_SERVED, *NAMES):
        assert f"{name}\n" in log, name  # in the list of import times
    assert "custom_nodes/not_allowed\n" not in log
    assert log.count("Rename it to ComfyUI-ExVideo") == 1


@pytest.mark.parametrize("name", NAMES)
def test_scripts_help_and_templates_are_served_under_every_name(client, name):
    address = quote(name, safe="()")
    assert set(client.get("/workflow_templates")[name]) >= {path.stem for path in WORKFLOWS}
    for path in WORKFLOWS:
        assert client.get(f"/api/workflow_templates/{address}/{path.name}") == read_graph(path)
    scripts = client.get("/extensions")
    for path in WEB:
        url = f"/extensions/{address}/{path.relative_to(ROOT / 'web').as_posix()}"
        assert client.get_bytes(url) == path.read_bytes()
        assert path.suffix != ".js" or url in map(unquote, scripts)


@pytest.mark.parametrize("file", WEB, ids=lambda path: path.name)
def test_no_page_file_knows_the_folders_name(file):
    assert file.suffix not in (".js", ".md", ".css") or f"/{PACK}" not in file.read_text(encoding="utf-8").replace(
        f"exvideo/{PACK}",
        "",  # the repository's address
    )


def test_other_folders_of_extensions_are_searched(client):
    loader = client.object_info()["ExVideoSVDLoader"]

    assert "theirs.safetensors" in loader["input"]["required"]["extension"][1]["options"]


def test_prompt_with_a_renamed_node_runs(client):
    prompt = to_prompt(read_graph(FIRST), client.object_info())
    change(prompt, SMALL)
    for node in prompt.values():
        if node["class_type"] == "ExVideoSampler":
            node["class_type"] = "ExVideoOldSampler"
            node["inputs"] = {OLD_NAMES.get(name, name): value for name, value in node["inputs"].items()}

    assert client.run(prompt).files


@pytest.mark.browser
@pytest.mark.skipif(find_chromium() is None, reason="no Chromium is installed")
def test_page_replaces_a_renamed_node_and_keeps_its_values(server, client, tmp_path):
    graph = json.loads(FIRST.read_text(encoding="utf-8"))
    wanted = to_prompt(graph, client.object_info())
    (sampler,) = (node for node in graph["nodes"] if node["type"] == "ExVideoSampler")
    sampler["type"] = sampler["properties"]["Node name for S&R"] = "ExVideoOldSampler"
    for entry in sampler["inputs"]:
        entry["name"] = OLD_NAMES.get(entry["name"], entry["name"])

    with open_page(server.url) as page:
        page.load(graph)
        page.page.get_by_role("button", name="View details").click()
        page.page.get_by_role("button", name="Replace All").click()
        page.page.wait_for_timeout(1000)
        page.picture(tmp_path / "replaced.png")
        found = page.prompt()

    assert {key: node["inputs"] for key, node in found.items()} == {key: node["inputs"] for key, node in wanted.items()}
