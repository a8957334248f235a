"""What the READMEs say: memory and operations as counted, the nodes as named; and the same in both languages."""

from __future__ import annotations

import json
import re

import pytest
import torch
from docs_pages import ROOT, snippets

from exvideo_core.estimate import Clip, Place, estimate_cogvideox, estimate_svd
from exvideo_core.families.cogvideox.config import TransformerConfig, VAEConfig as CogVideoXVAEConfig
from exvideo_core.families.svd.config import UNetConfig, VAEConfig

ENGLISH, CHINESE = ROOT / "README.md", ROOT / "README.zh.md"
ROW = re.compile(
    r"\| (?P<model>SVD|CogVideoX)\W+(?P<frames>\d+)\D+(?P<width>\d+)x(?P<height>\d+)\D*?(?P<steps>\d*)\D*?"
    r"\| (?P<resident>[\d.]+) GB \| (?P<streamed>[\d.]+) GB \| (?P<operations>[\d.]+) PFLOP \|"
)


def rows(page):
    return [row.groupdict() for row in ROW.finditer(page.read_text(encoding="utf-8"))]


def estimate(row, is_streamed):
    """Of a row's clip, in 16 bits, with guidance."""
    size = {name: int(row[name]) for name in ("frames", "width", "height")}
    clip = Clip(**size, steps=int(row["steps"] or 50))
    place = Place(device=torch.device("cpu"), dtype=torch.bfloat16, is_streamed=is_streamed)
    if row["model"] == "SVD":
        return estimate_svd(UNetConfig(extension_frames=128), VAEConfig(), clip, place)
    return estimate_cogvideox(TransformerConfig(), CogVideoXVAEConfig(), clip, place)


def cases():
    """The rows that people look at first; the others take some seconds each, too."""
    for row in rows(ENGLISH):
        is_usual = row["width"] in ("512", "720") and row["frames"] != "64"
        name = f"{row['model']} {row['frames']} {row['width']}"
        yield pytest.param(row, id=name, marks=[] if is_usual else pytest.mark.slow)


@pytest.mark.parametrize("row", list(cases()))
def test_the_readme_says_what_is_counted(row):
    resident, streamed = (estimate(row, is_streamed) for is_streamed in (False, True))

    assert float(row["resident"]) == pytest.approx(resident.peak / 1e9, abs=0.06)
    assert float(row["streamed"]) == pytest.approx(streamed.peak / 1e9, abs=0.06)
    assert float(row["operations"]) == pytest.approx(resident.work.flops / 1e15, rel=0.05)


def test_both_languages_have_the_same_numbers_and_commands():
    assert len(rows(ENGLISH)) == 5
    assert rows(ENGLISH) == rows(CHINESE)
    english, chinese = ([(s.kind, s.text) for s in snippets(page)] for page in (ENGLISH, CHINESE))
    assert sorted(english) == sorted(chinese)


@pytest.mark.parametrize(("page", "language"), [(ENGLISH, "en"), (CHINESE, "zh")], ids=["en", "zh"])
def test_every_node_is_in_the_table_under_its_name(page, language):
    names = json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))
    text = page.read_text(encoding="utf-8")

    assert [node["display_name"] for node in names.values() if f"\n| {node['display_name']} |" not in text] == []


def test_every_template_is_named_in_both():
    templates = {path.stem for path in (ROOT / "workflows").glob("*.json")}

    for page in (ENGLISH, CHINESE):
        assert templates == set(re.findall(r"\*\*(exvideo_\w+)\*\*", page.read_text(encoding="utf-8")))
