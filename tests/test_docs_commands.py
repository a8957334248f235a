"""Everything that the documentation tells people to type works, on small models in place of the published ones."""

from __future__ import annotations

import re
import runpy

import docs_rules
import docs_sandbox
import pytest
import yaml
from docs_pages import PAGES, ROOT, all_snippets, snippets

from exvideo_core.families.svd.training_config import SVDTraining
from exvideo_core.registry import training_recipes
from exvideo_core.training.config import parse_config, write_template

COMMANDS = all_snippets("shell")
OPTIONS = all_snippets("option")
PYTHON_PAGES = [path for path in PAGES if any(snippet.kind == "python" for snippet in snippets(path))]


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    docs_sandbox.fill(folder)
    return folder


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_command_works(command, sandbox, monkeypatch):
    monkeypatch.chdir(sandbox)
    docs_rules.run(command.text, monkeypatch)


@pytest.mark.parametrize("page", PYTHON_PAGES, ids=lambda path: path.name)
def test_python_of_a_page_runs_from_its_first_block_to_its_last(page, sandbox, monkeypatch, tmp_path):
    monkeypatch.chdir(sandbox)
    docs_sandbox.make_small(monkeypatch)
    names, script = {}, tmp_path / f"{page.stem}.py"
    for snippet in snippets(page):
        if snippet.kind == "python":
            code = "\n" * (snippet.line - 1) + re.sub(r"\bcuda(:\d)?\b", "cpu", snippet.text)
            script.write_text(code, encoding="utf-8")
            names = runpy.run_path(str(script), init_globals=names, run_name="__main__")


@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_option_is_known_to_a_program(option):
    assert docs_rules.is_known(option.text)


@pytest.mark.parametrize("block", all_snippets("yaml"), ids=str)
def test_block_of_settings_is_part_of_a_training_configuration(block):
    parse_config({"target": "svd", **yaml.safe_load(block.text)}, SVDTraining)


def test_settings_that_the_page_about_training_names_exist():
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:run|model|data|objective|optimizer)\.\w+)", page))
    templates = [yaml.safe_load(write_template(recipe().config)) for recipe in training_recipes().values()]
    sections = [section for template in templates for section in template.items() if isinstance(section[1], dict)]

    assert named
    assert named <= {f"{name}.{key}" for name, settings in sections for key in settings}
