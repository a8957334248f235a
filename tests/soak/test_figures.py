"""The long soak of docs/reliability.md: what was promised of it, and that the page says what was measured."""

import json
from pathlib import Path

import pytest

from soak import figures

ROOT = Path(__file__).resolve().parents[2]
MEASURED = max((ROOT / "benchmarks" / "results").glob("*-soak.json"))


@pytest.fixture(scope="module")
def results():
    return json.loads(MEASURED.read_text(encoding="utf-8"))


def test_a_third_of_the_prompts_was_cancelled_or_wrong(results):
    outcomes = [sample["outcome"] for sample in results["samples"]]

    assert len(outcomes) == 200
    assert outcomes.count("success") < 0.71 * len(outcomes)  # Cancel comes too late for some


def test_memory_after_the_last_150_prompts_is_what_it_was_before(results):
    before, after = (results["samples"][number - 1]["rss"] for number in (50, 200))

    assert abs(after - before) < max(0.02 * before, 50_000_000)
    assert abs(figures.summary(results)["growth"]) < max(0.02 * before, 50_000_000)


@pytest.mark.parametrize("kind", figures.COUNTED)
def test_no_prompt_left_one(results, kind):
    assert len({sample[kind] for sample in results["samples"][50:]}) == 1


def test_no_file_was_left_but_at_most_four_states_to_go_on_with(results):
    assert all(name.startswith(figures.WAITING) for name in results["others"])
    assert len(results["others"]) <= 4


def test_no_model_was_left(results):
    assert all(each["objects"]["networks"] == 1 for each in results["alive"])
    assert not any(results["emptied"]["objects"].values())


def test_the_page_says_what_was_measured(results, tmp_path):
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")

    assert figures.table(results) in page
    assert MEASURED.name in page
    assert figures.draw(results, tmp_path / "soak.png").stat().st_size > 10_000
