"""Several processes, interruptions and kills: a run is the run it would have been."""

import importlib.util
import os
import random
import time

import pytest
from training_runs import bytes_held, cogvideox_config, column, run, said, start, svd_config

pytestmark = pytest.mark.skipif(os.name != "posix", reason="starts its processes by fork")
HAS_DEEPSPEED = importlib.util.find_spec("deepspeed") is not None
needs_deepspeed = pytest.mark.skipif(not HAS_DEEPSPEED, reason="deepspeed is not installed")
ENGINES = ["fsdp", pytest.param("deepspeed", marks=needs_deepspeed)]
CONFIGS = {"svd": svd_config, "cogvideox": cogvideox_config}


def same_run(one, other, name="extension"):
    """Whether two folders hold the same run, bit for bit."""
    for table, column_name in (("log.csv", "loss"), ("held_out.csv", "all"), ("held_out_frames.csv", "0")):
        assert column(one, column_name, table) == column(other, column_name, table)
    exports = [(folder / f"{name}.safetensors").read_bytes() for folder in (one, other)]
    assert exports[0] == exports[1]
    return True


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("target", CONFIGS)
def test_two_processes_do_what_one_does_bit_for_bit(target, engine, tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    for world, folder in enumerate(folders, start=1):
        config = CONFIGS[target](tmp_path, run__output=str(folder), run__engine=engine, optimizer__clip_norm=1e3)
        assert run(config, world) == [0] * world

    assert len(column(folders[0], "loss")) == 20
    assert len(set(column(folders[0], "loss"))) == 20
    assert same_run(*folders)


def test_clipping_is_the_same_on_two_processes(tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    for world, folder in enumerate(folders, start=1):
        config = cogvideox_config(tmp_path, run__output=str(folder), run__steps=8, optimizer__clip_norm=1e-3)
        assert run(config, world) == [0] * world

    assert min(map(float, column(folders[0], "gradient_norm"))) > 1e-3  # or nothing would be clipped
    assert same_run(*folders)


def test_both_engines_take_the_same_steps(tmp_path):
    if not HAS_DEEPSPEED:
        pytest.skip("deepspeed is not installed")
    folders = [tmp_path / "fsdp", tmp_path / "deepspeed"]
    for folder in folders:
        config = cogvideox_config(tmp_path, run__output=str(folder), run__engine=folder.name, run__steps=8)
        assert run(config) == [0]

    assert same_run(*folders)


@pytest.mark.parametrize("engine", ENGINES)
def test_each_of_two_processes_keeps_half_of_the_moments(engine, tmp_path):
    config = svd_config(tmp_path, run__engine=engine)
    (alone,), pair = bytes_held(config, 1, tmp_path), bytes_held(config, 2, tmp_path)

    for held in pair:
        assert held["moments"] == pytest.approx(alone["moments"] / 2, rel=0.02)
        if engine == "fsdp":
            assert held["weights"] == pytest.approx(alone["weights"] / 2, rel=0.02)
            assert held["average"] == pytest.approx(alone["average"] / 2, rel=0.02)


def test_two_processes_go_on_as_one_and_one_as_two(tmp_path):
    whole, moved = tmp_path / "whole", tmp_path / "moved"
    assert run(cogvideox_config(tmp_path, run__output=str(whole))) == [0]
    for steps, world in ((6, 2), (12, 1), (20, 2)):
        config = cogvideox_config(
            tmp_path, run__output=str(moved), run__steps=steps, run__save_every=6, run__held_out_every=10
        )
        assert run(config, world) == [0] * world

    assert column(moved, "loss") == column(whole, "loss")
    assert (moved / "extension.safetensors").read_bytes() == (whole / "extension.safetensors").read_bytes()


@needs_deepspeed
def test_deepspeed_goes_on_with_as_many_processes_only(tmp_path):
    whole, again = tmp_path / "whole", tmp_path / "again"
    assert run(cogvideox_config(tmp_path, run__output=str(whole), run__engine="deepspeed"), 2) == [0, 0]
    for steps in (10, 20):
        config = cogvideox_config(tmp_path, run__output=str(again), run__engine="deepspeed", run__steps=steps)
        assert run(config, 2) == [0, 0]
    assert same_run(whole, again)

    config = cogvideox_config(tmp_path, run__output=str(again), run__engine="deepspeed", run__steps=30)
    assert run(config) == [2]
    assert "resumes only with the same number" in said(config).read_text()


def test_a_run_killed_ten_times_also_inside_saves_is_the_run_it_would_have_been(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    often = {"run__steps": 120, "run__save_every": 2, "run__held_out_every": 30}
    assert run(cogvideox_config(tmp_path, run__output=str(whole), **often)) == [0]
    config = cogvideox_config(tmp_path, run__output=str(killed), **often)
    draw = random.Random(0)

    in_saves = [kill_at_some_moment(config, killed, draw, in_a_save=number % 2 == 0) for number in range(10)]

    assert run(config) == [0]
    assert sum(in_saves) >= 3
    assert same_run(whole, killed)
    assert len(column(killed, "loss")) == 120


def kill_at_some_moment(config, output, draw, *, in_a_save):
    """kill -9 after some steps; whether that was inside a save, which leaves its folder unfinished."""
    partial, log = output / "checkpoints" / ".partial", output / "log.csv"
    process = start(config)
    before, deadline = steps_in(log), time.monotonic() + 60
    while steps_in(log) <= before and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(draw.uniform(0, 0.3))
    while in_a_save and not partial.exists() and process.is_alive():
        pass
    process.kill()
    process.join()
    assert process.exitcode == -9, "it should not have ended by itself"
    return partial.exists()


def steps_in(log):
    return log.read_text().count("\n") if log.exists() else 0
