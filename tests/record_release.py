"""Keep for ever what people save with a release: run once for each, before its tag is set.

    .venv/bin/python tests/record_release.py 0.2.0

Renews tests/nodes/interface.json, and copies the example workflows to tests/workflows/VERSION, each with the prompt
that this version makes of it. Refuses where workflows saved with an earlier release would break.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from interface import RECORD, broken, describe, read_record

from host.client import Client
from host.environment import Environment
from host.errors import HostError
from host.graph import read_graph, to_prompt
from host.server import Server

ROOT = Path(__file__).resolve().parents[1]
PACK = "ComfyUI-ExVideo"
RELEASES = ROOT / "tests" / "workflows"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version")
    options = parser.parse_args()
    try:
        info, replaced = ask_comfyui()
        record_interface(info, replaced)
        record_workflows(RELEASES / options.version, info)
    except HostError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def ask_comfyui():
    """What a server says of its nodes, and the ids that something takes the place of."""
    environment = Environment(ROOT)
    with (
        tempfile.TemporaryDirectory() as base,
        Server(environment.python, environment.tree(), Path(base), packs={PACK: ROOT}) as server,
    ):
        client = Client(server.url)
        return client.object_info(), list(client.get("/node_replacements"))


def record_interface(info, replaced):
    ours = {name: describe(node) for name, node in info.items() if node["python_module"] == f"custom_nodes.{PACK}"}
    released = read_record() if RECORD.exists() else {}
    if lines := broken(released, ours, replaced):
        raise HostError("\n".join(lines))
    write(RECORD, released | ours)  # what was replaced stays


def record_workflows(folder, info):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in sorted((ROOT / "workflows").glob("*.json")):
        shutil.copy(path, folder)
        prompt = to_prompt(read_graph(path), info)
        bare = {key: {"class_type": node["class_type"], "inputs": node["inputs"]} for key, node in prompt.items()}
        write(folder / f"{path.stem}.prompt.json", bare)


def write(path, content):
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
