"""A command that was cut off goes on when it is given again."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from exvideo_core.cli import main
from exvideo_core.sampling import saved_run
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
    settings = [*MODELS[model], "--steps", str(STEPS), *given, *others]
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

    assert f"exvideo: going on after step 4 of {STEPS}\n" in capsys.readouterr().err
    assert target.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "first.png", "whole.mp4"]


def test_another_command_starts_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "clip.mp4"
    with pytest.MonkeyPatch.context() as patch:
        stop_after(2, patch)
        main(command("cogvideox", tmp_path, target))

    assert main(command("cogvideox", tmp_path, target, "--seed", "1")) == 0

    assert "clip.mp4.unfinished cannot be gone on with (it is of another run" in capsys.readouterr().err
    assert main(command("cogvideox", tmp_path, tmp_path / "other.mp4", "--seed", "1")) == 0
    assert target.read_bytes() == (tmp_path / "other.mp4").read_bytes()


def test_when_writing_failed_another_codec_is_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "clip.mp4"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("exvideo_core.cli.output.save_video", lambda *_, **__: sys.exit("the disk is full"))
        with pytest.raises(SystemExit):
            main(command("cogvideox", tmp_path, target))
    capsys.readouterr()

    assert main(command("cogvideox", tmp_path, target, "--codec", "h265")) == 0

    assert f"going on after step {STEPS} of {STEPS}" in capsys.readouterr().err
    assert len(load_frames(target)) == 9


# killed

PROGRAM = """
import sys
from exvideo_core.sampling import saved_run
saved_run.SavedRun.__init__.__kwdefaults__["interval"], saved_run._SHARE = 0, 1e9
from exvideo_core.cli import main
sys.exit(main(sys.argv[1:]))
"""


def start(arguments: list[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    root = Path(__file__).resolve().parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=root,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def moments(count: int, seconds: float, seed: int) -> Iterator[float]:
    """One at random in each part of the time, so that all of it is seen."""
    generator = random.Random(seed)
    for index in range(count):
        yield seconds * (index + generator.random()) / count


def killed_and_resumed(model: str, folder: Path, kills: int, seed: int) -> list[str]:
    """What each of so many killed runs said when it went on; every clip is compared."""
    whole = folder / "whole.mp4"
    first = start(command(model, folder, whole))
    begun = time.monotonic()
    assert first.wait(300) == 0, first.stderr and first.stderr.read()
    seconds = time.monotonic() - begun
    told = []
    for number, moment in enumerate(moments(kills, seconds, seed)):
        target = folder / f"{number}.mp4"
        process = start(command(model, folder, target))
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        left = sorted(path.name for path in folder.glob(f"*{number}.mp4*"))
        again = start(command(model, folder, target))
        _, errors = again.communicate(timeout=300)
        assert again.returncode == 0, errors
        assert target.read_bytes() == whole.read_bytes()
        assert [path.name for path in folder.glob(f"*{number}.mp4*")] == [target.name]
        lines = [line.removeprefix("exvideo: ") for line in errors.splitlines() if line.startswith("exvideo: ")]
        told.append(f"killed after {moment:.1f} of {seconds:.1f} s with {left}: {lines or 'started anew'}")
        target.unlink()
    shutil.rmtree(folder)
    return told


@pytest.mark.skipif(os.name == "nt", reason="has no kill -9")
@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_ten_kills_at_random_moments_change_nothing(model: str, tmp_path: Path) -> None:
    told = killed_and_resumed(model, tmp_path, 10, seed=7)

    print("\n".join(told))
    assert any("going on after step" in line for line in told)
