"""The entries for ComfyUI-Manager's list of models are those of the catalogue."""

import importlib.util
import json
from pathlib import Path

PUBLISHING = Path(__file__).resolve().parents[1] / "docs" / "publishing"
FIELDS = ["name", "type", "base", "save_path", "description", "reference", "filename", "url", "size"]


def test_entries_for_the_manager_are_those_of_the_catalogue():
    specification = importlib.util.spec_from_file_location("model_list", PUBLISHING / "model_list.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    written = json.loads((PUBLISHING / "model-list.json").read_text(encoding="utf-8"))

    assert written == {"models": module.entries()}, "run docs/publishing/model_list.py"
    assert all(list(entry) == FIELDS and all(entry.values()) for entry in written["models"])
    assert len(written["models"]) == 5
