"""The page of known pains: twenty rows, each shown by tests and pages that are there."""

from __future__ import annotations

import ast
import re

import pytest
from docs_pages import ROOT

PAGE = ROOT / "docs" / "known_pains.md"
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.read_text(encoding="utf-8").splitlines()
    if re.match(r"\| \d+ \|", line)
]


def functions_of(file):
    """Names of the test functions in a file."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_there_are_twenty():
    assert [row[0] for row in ROWS] == [str(number) for number in range(1, 21)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_pain_has_a_source_an_answer_and_something_that_shows_it(row):
    _, complaint, sources, answer, shown = row

    assert complaint
    assert answer
    assert all(f"{name}#{number}" in sources for name, number in re.findall(r"/([\w.-]+)/issues/(\d+)\)", sources))
    assert "https://github.com/" in sources
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", shown)
    assert named or "](" in shown
    assert "`" not in re.sub(r"`tests/[\w/]+\.py::\w+`", "", shown)
    for file, test in named:
        assert test in functions_of(file), f"{file} has no {test}"
