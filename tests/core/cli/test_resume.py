"""A command that was interrupted resumes when it is given again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from exvideo_core.cli import main
from exvideo_core.errors import VideoError
from exvideo_core.runtime import resume as saved_run
from exvideo_core.video import load_frames

STEPS = 6
MODELS = {"svd": ["--frames", "6"], "cogvideox": ["--frames", "9"]}


@pytest.fixture(autouse=True)
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setitem(saved_run.SavedRun.__init__.__kwdefaults__, "interval", 0)
    monkeypatch.setattr(saved_run, "_SHARE", 1e9)


def command(model: str, folder: Path, target: Path, *others: str) -> list[str]:
    picture = folder / "first.png"
    if not picture.exists():
        Image.linear_gradient("L").convert("RGB").save(picture)
    given = ["--image", str(picture)] if model == "svd" else []
    settings = ["--steps", str(STEPS), *MODELS[model], *given, *others]
    return ["demo", "--model", model, *settings, "-o", str(target)]


def stop_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C, as a run hears of it."""
    keep = saved_run.Recording.keep

    def interrupted(self: saved_run.Recording, point: saved_run.Point, **options: bool) -> None:
        keep(self, point, **options)
        if point.step == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(saved_run.Recording, "keep", interrupted)


@pytest.mark.parametrize("model", MODELS)
def test_the_same_command_goes_on(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, target = tmp_path / "whole.mp4", tmp_path / "clip.mp4"
    assert main(command(model, tmp_path, whole)) == 0
    with pytest.MonkeyPatch.context() as patch:
        stop_after(4, patch)
        assert main(command(model, tmp_path, target)) == 130
    assert target.with_name("clip.mp4.unfinished").exists()
    assert "going on" not in capsys.readouterr().err

    assert main(command(model, tmp_path, target)) == 0

    assert f"exvideo: resuming after step 4 of {STEPS}\n" in capsys.readouterr().err
    assert target.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "first.png", "whole.mp4"]


def test_another_command_starts_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "clip.mp4"
    with pytest.MonkeyPatch.context() as patch:
        stop_after(2, patch)
        main(command("cogvideox", tmp_path, target))

    assert main(command("cogvideox", tmp_path, target, "--seed", "1")) == 0

    assert "cannot resume from clip.mp4.unfinished: it is of another run" in capsys.readouterr().err
    assert main(command("cogvideox", tmp_path, tmp_path / "other.mp4", "--seed", "1")) == 0
    assert target.read_bytes() == (tmp_path / "other.mp4").read_bytes()


def full_disk(*_: object, **__: object) -> None:
    raise VideoError("the disk is full.")


def test_when_writing_failed_another_codec_is_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "clip.mp4"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("exvideo_core.terminal.output_options.save_video", full_disk)
        assert main(command("cogvideox", tmp_path, target)) == 2
    assert "the disk is full. All steps are saved: the same command only decodes and writes." in capsys.readouterr().err

    assert main(command("cogvideox", tmp_path, target, "--codec", "h265")) == 0

    assert f"resuming after step {STEPS} of {STEPS}" in capsys.readouterr().err
    assert len(load_frames(target)) == 9


# killed

PROGRAM = """
import sys
from exvideo_core.runtime import resume as saved_run
saved_run.SavedRun.__init__.__kwdefaults__["interval"], saved_run._SHARE = 0, 1e9
from exvideo_core.cli import main
sys.exit(main(sys.argv[1:]))
"""


def start(arguments: list[str], program: str = PROGRAM) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    root = Path(__file__).resolve().parents[3]
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=root,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> float:
    """When it was there."""
    while not path.exists():
        assert process.poll() is None, "it ended before a step was saved"
        time.sleep(0.005)
    return time.monotonic()


def killed_and_resumed(model: str, folder: Path, kills: int) -> list[str]:
    """What was there and said, for so many kills at random moments from the first saved step to the end."""
    generator = random.Random(model)
    whole = folder / "whole.mp4"
    process = start(command(model, folder, whole))
    begun = wait_for(whole.with_name("whole.mp4.unfinished"), process)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    seconds = time.monotonic() - begun
    told = []
    for number in range(kills):
        target = folder / f"{number}.mp4"
        moment = seconds * (number + generator.random()) / kills  # one in each part of the time
        while True:
            process = start(command(model, folder, target))
            wait_for(target.with_name(f"{target.name}.unfinished"), process)
            time.sleep(moment)
            is_cut = process.poll() is None
            process.send_signal(signal.SIGKILL)
            process.communicate()
            if is_cut and not target.exists():
                break
            target.unlink()  # it was quicker than the first
            moment *= 0.8
        left = sorted(path.name for path in folder.glob(f"*{number}.mp4*"))
        process = start(command(model, folder, target))
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        assert target.read_bytes() == whole.read_bytes()
        assert [path.name for path in folder.glob(f"*{number}.mp4*")] == [target.name]
        said = [line.removeprefix("exvideo: ") for line in errors.splitlines() if line.startswith("exvideo: ")]
        told.append(f"{model}: {moment:.2f} of {seconds:.2f} s, {left}, {said}")
    print("\n".join(told))
    return told


DYING = """
import os, signal
flushes = []
def dying(_file):
    flushes.append(1)
    if len(flushes) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
os.fsync = dying
"""


@pytest.mark.skipif(os.name == "nt", reason="has no kill -9")
def test_killed_while_it_saves_the_third_step_it_goes_on_after_the_second(tmp_path: Path) -> None:
    whole, target = tmp_path / "whole.mp4", tmp_path / "clip.mp4"
    process = start(command("cogvideox", tmp_path, target), DYING + PROGRAM)
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob(".clip.mp4.unfinished.*.part"))) == 1

    _, errors = start(command("cogvideox", tmp_path, target)).communicate(timeout=300)

    assert f"resuming after step 2 of {STEPS}" in errors
    start(command("cogvideox", tmp_path, whole)).communicate(timeout=300)
    assert target.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "first.png", "whole.mp4"]


@pytest.mark.skipif(os.name == "nt", reason="has no kill -9")
@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_ten_kills_at_random_moments_change_nothing(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODELS, model, ["--frames", {"svd": "32", "cogvideox": "65"}[model], "--steps", "16"])
    told = killed_and_resumed(model, tmp_path, 10)

    assert sum("resuming after step" in line for line in told) > 5
