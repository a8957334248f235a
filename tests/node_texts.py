"""What the page says about nodes, in English and in other languages.

The English texts are those of the schemas, and locales/en has them for translators to start from. After a change:

    .venv/bin/python tests/node_texts.py

The other languages are written by hand.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from host.client import Client
from host.environment import Environment
from host.server import Server

PACK = "ComfyUI-ExVideo"
ROOT = Path(__file__).resolve().parents[1]
LOCALES = ROOT / "locales"
HELP = ROOT / "web" / "docs"
Texts = dict[str, Any]


def texts_of(definition: Mapping[str, Any]) -> Texts:
    """A node's entry of nodeDefs.json, from what `/object_info` says of it."""
    inputs = {}
    for group in ("required", "optional"):
        for name, (_, *rest) in (definition["input"].get(group) or {}).items():
            options = rest[0] if rest else {}
            inputs[name] = _entry(options.get("display_name") or name, options.get("tooltip"))
    named = zip(definition["output"], definition["output_name"], definition["output_tooltips"], strict=True)
    outputs = {
        # a socket that is called by its type is translated by the page
        str(i): _entry(None if name == kind else name, tooltip)
        for i, (kind, name, tooltip) in enumerate(named)
    }
    names = {"display_name": definition["display_name"], "description": definition["description"]}
    return {**names, "inputs": inputs, "outputs": outputs}


def _entry(name: str | None, tooltip: str | None) -> dict[str, str]:
    return {key: text for key, text in (("name", name), ("tooltip", tooltip)) if text}


def read_locale(language: str) -> Texts:
    texts: Texts = json.loads((LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8"))
    return texts


def flat(texts: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Every text by where it is: ("ExVideoSave.inputs.fps.tooltip", "...")."""
    for key, value in texts.items():
        if isinstance(value, str):
            yield above + key, value
        else:
            yield from flat(value, f"{above}{key}.")


def write_english(texts: Texts) -> None:
    path = LOCALES / "en" / "nodeDefs.json"
    path.write_text(json.dumps(texts, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    environment = Environment(ROOT)
    with (
        tempfile.TemporaryDirectory() as base,
        Server(environment.python, environment.tree(), Path(base), packs={PACK: ROOT}) as server,
    ):
        info = Client(server.url).object_info()
    ours = {name: node for name, node in info.items() if node["python_module"] == f"custom_nodes.{PACK}"}
    write_english({name: texts_of(node) for name, node in ours.items()})


if __name__ == "__main__":
    main()
