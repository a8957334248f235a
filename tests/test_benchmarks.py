"""What is promised about operations and memory, counted at the real sizes; and that the benchmark's scripts work."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from benchmarks import count, harness, jobs, plot, report, run_all, tasks

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
REFERENCE_FLOPS = {"svd_512": 206.96e12, "svd_1024": 1015.9e12, "cog_129f": 1460.7e12, "cog_vae_decode": 827.6e12}
REFERENCE_PEAKS = {"svd_512": 8.05e9, "svd_1024": 32.2e9, "cog_129f": 4.14e9, "cog_vae_decode": 21.3e9}


@cache
def counts_of(name):
    return count.count_job(count.JOBS[name])


@pytest.mark.parametrize("name", [name for name, job in count.JOBS.items() if job.most_bytes or job.most_flops])
def test_a_job_keeps_its_bars(name):
    job, counts = count.JOBS[name], counts_of(name)

    assert counts.peak <= (job.most_bytes or float("inf"))
    assert counts.total_flops <= (job.most_flops or float("inf"))


@pytest.mark.parity
@pytest.mark.parametrize("name", REFERENCE_FLOPS)
def test_the_reference_s_counts_are_known(name):
    counts = count.count_job(count.JOBS[name], "diffsynth")

    assert counts.total_flops == pytest.approx(REFERENCE_FLOPS[name], rel=1e-3)
    assert counts.peak == pytest.approx(REFERENCE_PEAKS[name], rel=1e-2)


ROWS = {
    "SVD, 128 frames of 512x512": "svd_512",
    "SVD, 128 frames of 1024x1024": "svd_1024",
    "SVD, decoding 8 frames of 1024x1024": "svd_vae_1024",
    "CogVideoX, 129 frames of 720x480": "cog_129f",
    "CogVideoX, decoding them": "cog_vae_decode",
}


@pytest.mark.parametrize("row", ROWS)
def test_the_page_says_what_is_counted(row):
    counts = counts_of(ROWS[row])
    line = next(line for line in PAGE.splitlines() if line.startswith(f"| {row} |"))
    operations, memory = (float(cell.split()[0]) for cell in line.split("|")[2:4])

    assert operations == pytest.approx(counts.total_flops / 1e12, rel=0.01)
    assert memory == pytest.approx(counts.peak / 1e9, rel=0.05)


def test_counts_are_printed_as_json_and_as_a_table(capsys):
    assert count.main(["--json", "--job", "svd_bench"]) == 0
    told = json.loads(capsys.readouterr().out)
    count.main(["--job", "svd_bench"])
    table = capsys.readouterr().out.splitlines()

    assert told["svd_bench"]["exvideo"]["total_flops"] == sum(told["svd_bench"]["exvideo"]["flops"].values())
    assert table[1].split()[:2] == ["svd_bench", f"{told['svd_bench']['exvideo']['total_flops'] / 1e12:.2f}"]


def test_a_reference_that_is_not_installed_is_left_out(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    count.main(["--json", "--job", "svd_bench", "--reference"])
    out, err = capsys.readouterr()

    assert "diffusers" not in json.loads(out)["svd_bench"]
    assert "diffusers is left out" in err


@pytest.mark.parity
@pytest.mark.parametrize(
    ("task", "cfg"),
    [
        ("svd_vae", {"frames": 2, "h": 4, "w": 4}),
        ("cog_dit", {"frames": 2, "h": 8, "w": 12, "layers": 1}),
    ],
)
def test_engines_agree_on_the_same_weights(task, cfg):
    diffusers, exvideo, diffsynth = harness.compare(
        task, cfg, ["diffusers", "exvideo", "diffsynth"], torch.float32, rounds=1
    )

    assert diffusers["error"] == 0
    assert diffusers["wall_ratio"] == diffusers["cpu_ratio"] == 1
    assert 0 < exvideo["error"] < 2e-5
    assert 0 < diffsynth["error"] < 2e-4  # it has other constants in the autoencoder's norms


def test_an_extended_unet_takes_the_weights_of_both_files():
    cfg = {"frames": 2, "h": 16, "w": 16, "ext": 128}
    weights = tasks.weights("svd_unet", cfg, torch.float16, "meta")
    call = harness.engine("benchmarks.engine:Engine").build("svd_unet", cfg, weights)
    given = tasks.inputs("svd_unet", cfg, torch.float16, "meta")

    assert sum(name.startswith("exvideo::") for name in weights) == 16 * 3
    with torch.no_grad(), torch.device("meta"):
        assert call(given).shape == (2, 4, 16, 16)


def test_rounds_are_interleaved_and_begin_with_each_engine_in_turn():
    order = []
    calls = {name: lambda _, name=name: order.append(name) for name in "abc"}
    times = harness.interleaved(calls, {}, "cpu", rounds=3)

    assert "".join(order) == "abcbcacab"
    assert all(len(pairs) == 3 for pairs in times.values())


def test_the_peak_of_a_process_is_its_own():
    ballast = torch.ones(2**28)  # of the process that starts the other
    script = (
        "import torch; from benchmarks import memory; before = memory.peak('cpu'); torch.ones(2**26);"
        "print(before, memory.peak('cpu'))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True)
    before, after = map(int, done.stdout.split())

    assert before < ballast.nbytes
    assert 0.9 * 2**28 <= after - before <= 1.2 * 2**28


@pytest.mark.parametrize("name", jobs.JOBS)
def test_a_job_runs_narrow(name):
    side, frames = (128, 3) if jobs.JOBS[name].model == "svd" else (32, 9)
    job = replace(jobs.JOBS[name], height=side, width=side, frames=frames, steps=2, narrow=16)
    row = jobs.measure(job, "exvideo", "cpu")

    assert row["steps"] == 2
    assert row["seconds"] == pytest.approx(row["rest_seconds"] + 2 * row["step_seconds"])
    assert row["process_bytes"] > 0


def test_every_command_of_a_run_parses():
    for command in {**run_all.CPU, **run_all.cuda(5)}.values():
        script, *rest = command
        parse = {"count.py": count.arguments_of, "harness.py": harness.arguments_of, "jobs.py": jobs.arguments_of}[
            script
        ]
        given = {word.removeprefix("--").replace("-", "_") for word in rest if word.startswith("--")}

        assert given <= vars(parse(rest)).keys()


def test_the_page_says_which_promises_are_kept():
    def rows(**cpu_s):
        return {"rows": [{"engine": engine, "cpu_s": seconds} for engine, seconds in cpu_s.items()]}

    results = {"unet_fp32": rows(diffsynth=10.0, exvideo=7.0), "cogvideox_layer_fp32": rows(diffsynth=1.0, exvideo=0.9)}
    lines = report.page({"machine": {"cpu": "none"}, "results": results}).splitlines()
    promises = [line for line in lines if "kept" in line]

    assert len(promises) == 2  # the others were not measured
    assert promises[0].endswith("| 0.7  | 0.75  | kept |")
    assert promises[1].endswith("| 0.9  | 0.85  | **not kept** |")


def test_the_page_s_pictures_are_drawn_from_measurements(tmp_path):
    results = max((ROOT / "benchmarks" / "results").glob("*-cpu.json"))
    plot.main([str(results), "--folder", str(tmp_path)])
    pictures = sorted(path.name for path in tmp_path.iterdir())

    assert pictures == [f"performance_{name}.png" for name in ("memory", "operations", "times")]
    assert all(f"images/{name}" in PAGE for name in pictures)


def test_a_few_steps_of_a_job_are_scaled_to_all():
    row = {"steps": 5, "seconds": 60.0, "step_seconds": 10.0, "rest_seconds": 10.0}

    assert report.whole(row, 5) == 60
    assert report.whole(row, 50) == 510


def test_a_run_measures_what_is_missing(monkeypatch, tmp_path, capsys):
    measured = []

    def fake(command, device, threads):
        measured.append(command[0])
        return {"svd_512": {"exvideo": {"total_flops": 1e12, "peak": 1e9}}}

    monkeypatch.setattr(run_all, "CPU", {"counts": ["count.py"]})
    monkeypatch.setattr(run_all, "_measured", fake)
    for more in ([], [], ["--only", "counts"]):
        assert run_all.main(["--device", "cpu", "--folder", str(tmp_path), *more]) == 0
    page, rows = sorted(tmp_path.iterdir(), key=lambda path: path.suffix, reverse=True)

    assert measured == ["count.py"] * 2  # the second run had all
    assert "| SVD 128 frames 512x512, peak memory beside weights | 1 GB | 2.4 GB | kept |" in page.read_text()
    assert json.loads(rows.read_text())["machine"]["threads"] == 1
