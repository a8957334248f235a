"""Links, pictures and paths in the documentation lead somewhere."""

from __future__ import annotations

import re
from urllib.parse import unquote

import pytest
from docs_pages import PAGES as ALL_PAGES, ROOT

PAGES = [page for page in ALL_PAGES if not page.is_relative_to(ROOT / "web")]  # those are read inside ComfyUI

_LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?[^)]*\)|(?:src|href|srcset)=\"([^\"]+)\"")
_CODE = re.compile(r"^ *```.*?^ *```|`[^`\n]*`", re.MULTILINE | re.DOTALL)
_OURS = "https://github.com/exvideo/ComfyUI-ExVideo/"
_PATH = re.compile(r"`((?:exvideo_core|nodes|tests|docs|benchmarks|samples|workflows|web|locales|\.ci)/[\w./-]+)`")


def links(page):
    """What a page links to, without what is code."""
    return [a or b for a, b in _LINK.findall(_CODE.sub("", page.read_text(encoding="utf-8")))]


def anchors(page):
    """The names that GitHub gives to a page's headings."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found: dict[str, int] = {}
    for heading in re.findall(r"^#+ +(.+?)\s*$", text, re.MULTILINE):
        plain = re.sub(r"!?\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").replace("*", "")
        name = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        count = found[name] = found.get(name, -1) + 1
        if count:
            found[f"{name}-{count}"] = 0
    return found.keys()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for link in links(page):
        path, _, anchor = unquote(link).partition("#")
        if path.startswith((_OURS + "issues", _OURS + "releases", _OURS + "security")) or path == _OURS.rstrip("/"):
            continue
        if path.startswith(_OURS):  # blob/main/..., raw/main/...
            target = ROOT / path.removeprefix(_OURS).split("/", 2)[2]
        elif re.match(r"\w+:", path):
            assert path.startswith("https://"), link
            continue
        else:
            target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_that_are_named_exist(page):
    missing = [name for name in _PATH.findall(page.read_text(encoding="utf-8")) if not (ROOT / name).exists()]

    assert not missing


def test_every_page_can_be_reached_from_the_readme():
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop().resolve()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        paths = (page.parent / unquote(link).partition("#")[0] for link in links(page) if not re.match(r"\w+:", link))
        waiting += [path for path in paths if path.is_file()]
    docs = {path for path in PAGES if path.is_relative_to(ROOT / "docs") or path.parent == ROOT}
    lost = {path.relative_to(ROOT).as_posix() for path in docs - reached}

    assert not {name for name in lost if not name.startswith("docs/publishing/")}
