"""The benchmark in one process: what fits is measured, each number is on disk, and no failure ends it."""

import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import kernels
from benchmarks.gpu.bench import Bench, chunks_of, relative_error
from benchmarks.gpu.page import page
from benchmarks.gpu.plan import PLAN
from benchmarks.gpu.record import Record
from benchmarks.gpu.sections import Section, run
from exvideo_core.nn.kernels import with_kernel, with_kernel_in_place

ROOT = Path(__file__).resolve().parents[1]
NARROW = ("--device", "cpu", "--narrow", "--seconds", "60")
# Not there: a machine has PyTorch, NumPy, safetensors, einops and Pillow.
ABSENT = (
    *("imageio_ffmpeg", "diffusers", "diffsynth", "transformers", "tokenizers", "huggingface_hub", "filelock"),
    *("tqdm", "av", "yaml", "pydantic", "matplotlib", "skimage"),
)
BARE = """
import os
import sys
from pathlib import Path

for name in sys.argv[2:]:
    sys.modules[name] = None

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.plan import PLAN
from benchmarks.gpu.record import Record
from benchmarks.gpu.sections import Section, run


def fail(bench):
    bench.record.put("before")
    raise RuntimeError("broken on purpose")


def die(bench):
    bench.record.put("before")
    os._exit(7)


planned = {section.name: section for section in PLAN}
names = ("machine", "svd_is_right", "kernels", "svd_references", "cogvideox_129f", "cogvideox_is_right", "memory_cap")
sections = [
    Section(name="broken", seconds=1, measure=fail),
    Section(name="long", seconds=1000, measure=fail),
    *(planned[name] for name in names),
    Section(name="killed", seconds=1, measure=die),
]
run(sections, Bench("cpu", Record(Path(sys.argv[1])), is_narrow=True), seconds=100)
"""


def lines(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def bench(tmp_path):
    return Bench("cpu", Record(tmp_path / "rows.jsonl"), is_narrow=True)


@pytest.mark.full
def test_a_bare_machine_measures_what_it_can(tmp_path):
    file = tmp_path / "rows.jsonl"
    done = subprocess.run([sys.executable, "-c", BARE, str(file), *ABSENT], cwd=ROOT, capture_output=True, text=True)
    rows = lines(file)
    of = {row["section"]: [other for other in rows if other["section"] == row["section"]] for row in rows}

    assert done.returncode == 7, done.stderr
    assert [row["name"] for row in of["broken"]] == ["before", "failed", "done"]
    assert of["broken"][1]["error"] == "RuntimeError: broken on purpose"
    left_out = {row["section"]: row["reason"] for row in rows if row["name"] == "left out"}
    assert left_out == {
        "long": left_out["long"],
        "kernels": "it needs a GPU",
        "memory_cap": "it needs a GPU",
        "svd_is_right": "it needs transformers",
        "svd_references": "it needs diffusers and diffsynth",
    }
    assert left_out["long"].startswith("it takes about 1000 s, and ")
    for name in ("machine", "cogvideox_129f", "cogvideox_is_right"):
        assert of[name][-1]["name"] == "done", of[name]
        assert not of[name][-1]["has_failed"], of[name]
    checks = [row for row in rows if "holds" in row]
    assert len(checks) >= 15
    assert all(row["holds"] for row in checks)
    assert {row["name"] for row in of["cogvideox_is_right"]} >= {"again", "streamed", "in chunks of 256 KiB"}
    assert of["cogvideox_129f"][0]["seconds"] > 0
    assert [row["name"] for row in of["killed"]] == ["before"]  # it was on disk when the process ended


@pytest.mark.full
def test_the_command_writes_rows_and_a_page(tmp_path):
    command = [sys.executable, "benchmarks/run_all.py", *NARROW, "--only", "convolutions_3d", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    (file,) = tmp_path.glob("*-cpu-60s.jsonl")
    rows = lines(file)

    assert done.returncode == 0, done.stderr
    assert {row["section"] for row in rows} == {"convolutions_3d"}
    assert [row["name"] for row in rows] == ["conv3d", "conv3d, weight channels-last", "three conv2d", "done"]
    assert all(row["error"] < 1e-5 for row in rows[:-1])
    text = file.with_suffix(".md").read_text(encoding="utf-8")
    assert "| three conv2d | float32 |" in text
    assert "| convolutions_3d |" in text


@pytest.mark.parametrize("arguments", [["--device", "cpu", "--seconds", "9"], ["--device", "cuda", "--narrow"]])
def test_what_makes_no_sense_is_refused(arguments, capsys):
    from benchmarks import run_all

    with pytest.raises(SystemExit):
        run_all.main(arguments)
    assert "narrow" in capsys.readouterr().err


def test_every_section_has_a_name_of_its_own_and_an_estimate():
    names = [section.name for section in PLAN]

    assert len(set(names)) == len(names)
    assert all(section.seconds > 0 for section in PLAN[:-1])
    assert PLAN[-1].seconds == 0  # what it says of the whole run is never left out


def test_only_named_sections_run(bench):
    ran = []
    sections = [Section(name=name, seconds=1, measure=lambda _, name=name: ran.append(name)) for name in "abc"]

    assert run(sections, bench, 100, only=["b"]) == 0
    assert ran == ["b"]


def test_failures_and_checks_that_do_not_hold_are_counted(bench):
    x = torch.ones(3)

    def measure(bench):
        bench.check("equal", x, x, 0)
        bench.check("near", x * 1.01, x, 0.02)
        bench.check("no equal bits", x, x + torch.tensor([0, 0, 2**-23]), 0)
        bench.check("nearly zero", torch.tensor([1, 1e-30]), torch.tensor([1.0, 0]), 0)
        bench.check("far", x * 1.1, x, 0.02)
        bench.check("NaN", x * torch.nan, x, 0.02)
        raise ValueError("no")

    assert run([Section(name="checks", seconds=1, measure=measure)], bench, 100) == 5
    rows = lines(bench.record.file)
    assert [row["name"] for row in rows if row.get("holds")] == ["equal", "near"]
    assert rows[5]["error"] == "nan"
    text = page(rows)
    assert "- checks: ValueError: no" in text
    assert text.count("no equal bits") == 2  # among what does not hold, and in its section


def test_warnings_of_the_core_are_rows(bench):
    def measure(_):
        logging.getLogger("exvideo_core.nn.kernels.checked").warning("the kernel for %s is not used", "this")

    run([Section(name="warned", seconds=1, measure=measure)], bench, 100)
    assert bench.record.rows[0]["text"] == "the kernel for this is not used"


def test_a_failed_section_leaves_no_network(bench):
    def measure(bench):
        bench.network(lambda _: torch.nn.Linear(2, 2))
        raise ValueError("no")

    run([Section(name="fails", seconds=1, measure=measure)], bench, 100)
    assert bench._network is None


def test_a_network_is_built_once_and_another_replaces_it(bench):
    built = []

    def first(_):
        built.append("first")
        return object()

    def second(_):
        built.append("second")
        return object()

    assert bench.network(first) is bench.network(first)
    bench.network(second), bench.network(first)
    assert built == ["first", "second", "first"]


def test_chunk_sizes_are_restored_after_a_failure():
    network = torch.nn.Linear(2, 2)
    network.chunk_bytes = 5
    seen = []

    def fail():
        with chunks_of(9, network):
            seen.append(network.chunk_bytes)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [*seen, network.chunk_bytes] == [9, 5]


def test_errors_are_relative():
    x = torch.tensor([3.0, 4.0])

    assert relative_error(x * 1.5, x) == pytest.approx(0.5)


# kernels


def compared(bench, monkeypatch, kernel):
    """The rows of a kernel, whose twin doubles."""

    @with_kernel(kernel)
    def double(x):
        return x * 2

    monkeypatch.setitem(kernels.KERNELS, "double", double)
    kernels.compare(bench, "double", "here", (torch.linspace(0, 9, 1000),))
    return bench.record.rows


def test_a_kernel_equal_to_its_twin_holds(bench, monkeypatch):
    row, times = compared(bench, monkeypatch, lambda x: x * 2)

    assert times["kernel_seconds"] > 0
    assert (row["holds"], row["error"]) == (True, 0)


def test_a_kernel_that_differs_does_not(bench, monkeypatch):
    row, _ = compared(bench, monkeypatch, lambda x: x * 2.0001)

    assert not row["holds"]
    assert bench.failed_checks == 1


def test_a_kernel_that_changes_its_input_gets_a_copy(bench, monkeypatch):
    @with_kernel_in_place(lambda x, y: x.add_(y))
    def add(x, y):
        return x.add_(y)

    x = torch.ones(3)
    monkeypatch.setitem(kernels.KERNELS, "add", add)
    kernels.compare(bench, "add", "here", (x, torch.ones(3)))
    assert bench.record.rows[0]["holds"]
    assert torch.equal(x, torch.ones(3))


def test_twins_take_every_case(bench):
    for name, _, arguments in kernels._cases(bench, torch.float32):
        assert all(each.isfinite().all() for each in kernels._parts(kernels.KERNELS[name].twin(*arguments)))


def test_a_kernel_that_fails_is_said(bench, monkeypatch):
    (row,) = compared(bench, monkeypatch, lambda x: x.no_such_attribute)

    assert not row["holds"]
    assert row["failed"].startswith("AttributeError")


def test_a_layout_that_a_kernel_does_not_take_is_said(bench, monkeypatch):
    (row,) = compared(bench, monkeypatch, lambda x: None)

    assert row["is_taken"] is False


def test_every_kernel_has_a_case(bench):
    sources = (path.read_text(encoding="utf-8") for path in (ROOT / "exvideo_core").rglob("*.py"))
    decorated = {name for text in sources for name in re.findall(r"^@with_\w+\(operators\.(\w+)\)", text, re.MULTILINE)}

    assert len(decorated) > 5
    assert set(kernels.KERNELS) == decorated
    assert {name for name, _, _ in kernels._cases(bench, torch.float32)} == decorated


def test_kernels_that_were_left_out_are_named(bench, monkeypatch):
    shape, other = ((torch.float16, torch.Size([2, 3])),), ((torch.float16, torch.Size([4, 3])),)
    monkeypatch.setattr(kernels.KERNELS["scaled_silu"], "trusted", {shape: False, other: True})
    kernels.put_used(bench)

    (row,) = (row for row in bench.record.rows if row["name"] == "scaled_silu")
    assert (row["used"], row["left_out"]) == (1, 1)
    assert row["shapes"] == ["float16 [2, 3]"]
