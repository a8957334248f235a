"""A run that is cut off goes on with the same result, or starts anew; whatever lies in the place of its state."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from narrow_svd import noise
from saved_runs import STEPS, Cut, cut_after
from solvers import ddim, dpmpp_2m, dpmpp_2m_sde, dpmpp_2m_sigmas, euler
from torch import Tensor

from exvideo_core.nn.step_cache import Reuse, StepCache
from exvideo_core.runtime import resume as saved_run
from exvideo_core.runtime.resume import Recording, SavedRun
from exvideo_core.sampling.inputs import SeededNoise
from exvideo_core.sampling.schedules import alpha_levels, karras_sigmas, trailing_timesteps
from exvideo_core.weights.write import write_weights

X = noise(2, 4, 3, 3)


def solvers() -> dict[str, tuple[Callable[..., Tensor], Tensor, Any]]:
    """Solver, levels, and what draws noise, new for each run."""
    draw = SeededNoise(X.shape, 5)
    sigmas, alphas = karras_sigmas(STEPS), alpha_levels(trailing_timesteps(STEPS))
    return {
        "euler": (euler, sigmas, None),
        "dpmpp_2m_sigmas": (dpmpp_2m_sigmas, sigmas, None),
        "ddim": (ddim, alphas, None),
        "dpmpp_2m": (dpmpp_2m, alphas, None),
        "dpmpp_2m_sde": (partial(dpmpp_2m_sde, draw=draw), alphas, draw),
    }


def denoise(x: Tensor, level: Tensor) -> Tensor:
    return torch.tanh(x / (1 + level) + level / 7)


def solve(
    name: str, run: SavedRun | None, callback: Any = None, denoiser: Callable[[Tensor, Tensor], Tensor] = denoise
) -> Tensor:
    solver, levels, draw = solvers()[name]
    recording = run and run.begin("this run", X, STEPS, {"noise": draw})
    return solver(denoiser, X, levels, callback, recording)


@pytest.mark.parametrize("name", solvers())
def test_a_run_that_was_stopped_after_any_step_ends_at_the_same_bits(
    name: str, tmp_path: Path, said: list[str]
) -> None:
    expected = solve(name, None)

    for step in range(1, STEPS + 1):
        run = SavedRun(tmp_path / f"{step}", tell=said.append)  # by Cancel, which saves at once
        with pytest.raises(Cut):
            solve(name, run, cut_after(step))
        steps: list[int] = []
        assert torch.equal(solve(name, run, lambda done, *_: steps.append(done)), expected)  # noqa: B023
        assert steps == list(range(step + 1, STEPS + 1))
        assert said[-1] == f"resuming after step {step} of {STEPS}"


@pytest.mark.parametrize("interval", [0, 1000])  # where it failed is noted though it was not yet time for that
@pytest.mark.parametrize("name", solvers())
def test_a_run_that_failed_in_the_midst_of_a_step_ends_at_the_same_bits(
    name: str, interval: float, saved: SavedRun
) -> None:
    saved.interval = interval
    calls = count()

    def failing(x: Tensor, level: Tensor) -> Tensor:
        if next(calls) == 3:
            raise Cut
        return denoise(x, level)

    with pytest.raises(Cut):
        solve(name, saved, denoiser=failing)

    done: list[int] = []
    assert torch.equal(solve(name, saved, lambda step, *_: done.append(step)), solve(name, None))
    assert done == [4, 5]


def test_half_a_step_of_what_is_remembered_is_not_noted(tmp_path: Path) -> None:
    run = SavedRun(tmp_path / "run", interval=1000)
    recording = run.begin("this run", X, STEPS, {"reuse": StepCache(Reuse(threshold=0.1), STEPS)})

    recording.stop(saved_run.Point(2, X), in_step=True)
    assert not run.path.exists()
    recording.stop(saved_run.Point(2, X), in_step=False)
    assert run.path.exists()


def test_what_is_finished_is_not_computed_again(saved: SavedRun, said: list[str]) -> None:
    result = solve("dpmpp_2m", saved)

    def never(*_: Tensor) -> Tensor:
        raise AssertionError

    assert torch.equal(solve("dpmpp_2m", saved, denoiser=never), result)
    assert said == [f"resuming after step {STEPS} of {STEPS}"]


def test_a_forgotten_run_starts_anew_and_leaves_nothing(saved: SavedRun, said: list[str]) -> None:
    solve("euler", saved)
    saved.forget()

    assert list(saved.path.parent.iterdir()) == []
    solve("euler", saved)
    assert said == []
    saved.forget()
    saved.forget()


# files that are not this run's


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 10)


def flipped(path: Path) -> None:
    """One bit of the latents."""
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def of_other_steps(path: Path) -> None:
    """As if by another version with the same fingerprint."""
    tensors = {"x": torch.zeros(2, 4, 3, 4)}
    notes = {"kind": saved_run._KIND, "fingerprint": "this run", "step": "3"}
    write_weights(path, tensors, {**notes, "checksum": saved_run._checksum(tensors)})


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": truncated,
    "flipped": flipped,
    "empty": lambda path: path.write_bytes(b""),
    "half of a header": lambda path: os.truncate(path, 40),
    "text": lambda path: path.write_text("this is no run"),
    "other weights": lambda path: write_weights(path, {"x": X}),
    "other weights with notes": lambda path: write_weights(path, {"x": X}, {"kind": saved_run._KIND}),
    "another shape": of_other_steps,
    "a folder": a_folder,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_file_that_is_damaged_or_foreign_is_told_of_and_not_used(
    damage: Callable[[Path], object], saved: SavedRun, said: list[str]
) -> None:
    with pytest.raises(Cut):
        solve("dpmpp_2m", saved, cut_after(3))
    damage(saved.path)

    assert torch.equal(solve("dpmpp_2m", saved), solve("dpmpp_2m", None))
    assert said[0].startswith("cannot resume from run.unfinished: ")
    assert said[0].endswith(". Starting over.")


def test_another_run_is_not_gone_on_with(saved: SavedRun, said: list[str]) -> None:
    with pytest.raises(Cut):
        solve("euler", saved, cut_after(3))

    assert saved.begin("that run", X, STEPS, {}).start is None
    assert "it is of another run" in said[0]


# the disk


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(saved_run, "write_weights", refuse)


@pytest.mark.usefixtures("full")
def test_a_disk_that_fills_is_told_of_once_and_does_not_end_the_run(saved: SavedRun, said: list[str]) -> None:
    assert torch.equal(solve("euler", saved), solve("euler", None))
    assert said == ["cannot save the finished steps: No space left on device. The run continues."]


def test_room_is_left_for_the_video(saved: SavedRun, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=60_000_000))
    solve("euler", saved)

    assert said == ["cannot save the finished steps: No space left on device. The run continues."]
    assert not saved.path.exists()


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="nothing is read-only for this user")
def test_a_folder_that_is_read_only_does_not_end_the_run(saved: SavedRun, said: list[str]) -> None:
    saved.path.parent.chmod(0o500)
    solve("euler", saved)
    saved.path.parent.chmod(0o700)

    assert len(said) == 1
    assert "Permission denied" in said[0]


def test_a_folder_that_is_gone_does_not_end_the_run(saved: SavedRun, said: list[str]) -> None:
    recording = saved.begin("this run", X, STEPS, {})
    shutil.rmtree(saved.path.parent)

    assert torch.equal(euler(denoise, X, karras_sigmas(STEPS), None, recording), solve("euler", None))
    assert len(said) == 1


def test_a_kill_while_it_is_written_leaves_the_one_before(saved: SavedRun) -> None:
    with pytest.raises(Cut):
        solve("dpmpp_2m", saved, cut_after(2))
    left = saved.path.with_name(f".{saved.path.name}.99999.part")
    left.write_bytes(saved.path.read_bytes()[:100])

    assert torch.equal(solve("dpmpp_2m", saved), solve("dpmpp_2m", None))
    assert [path.name for path in saved.path.parent.iterdir()] == [saved.path.name]


# how often


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    now = SimpleNamespace(seconds=1000.0, writing=0.0, written=[])

    def write(_run: SavedRun, point: Any, *_: object) -> None:
        now.written.append(point.step)
        now.seconds += now.writing

    monkeypatch.setattr(saved_run.time, "monotonic", lambda: now.seconds)
    monkeypatch.setattr(SavedRun, "write", write)
    return now


def steps_of(recording: Recording, clock: SimpleNamespace, steps: int, each: float) -> list[int]:
    for step in range(1, steps + 1):
        clock.seconds += each
        recording.keep(saved_run.Point(step, X))
    return list(clock.written)


def test_short_steps_are_saved_once_in_an_interval_and_at_the_end(tmp_path: Path, clock: SimpleNamespace) -> None:
    recording = SavedRun(tmp_path / "run", interval=5).begin("run", X, 20, {})

    assert steps_of(recording, clock, 20, each=1) == [5, 10, 15, 20]


def test_long_steps_are_all_saved(tmp_path: Path, clock: SimpleNamespace) -> None:
    clock.writing = 0.2
    recording = SavedRun(tmp_path / "run", interval=5).begin("run", X, 4, {})

    assert steps_of(recording, clock, 4, each=60) == [1, 2, 3, 4]


def test_writing_takes_a_small_part_of_the_time(tmp_path: Path, clock: SimpleNamespace) -> None:
    clock.writing = 3.0  # much is remembered, and the disk is slow
    recording = SavedRun(tmp_path / "run", interval=5).begin("run", X, 50, {})

    assert steps_of(recording, clock, 50, each=10) == [1, 11, 21, 31, 41, 50]


# step reuse


def test_a_step_cache_goes_on_with_what_another_remembered() -> None:
    def predict(cache: StepCache, steps: range) -> list[Tensor | None]:
        results = []
        for step in steps:
            for branch in cache.branches(2):
                branch.enter(X)
                first = X + 1 + step / 100
                results.append(branch.predict(first))
                if results[-1] is None:
                    branch.keep(first + step)
        return results

    whole = StepCache(Reuse(threshold=0.1), 12)
    expected = predict(whole, range(12))
    for done in range(1, 12):
        before, after = StepCache(Reuse(threshold=0.1), 12), StepCache(Reuse(threshold=0.1), 12)
        predict(before, range(done))
        after.restore(before.state())
        for now, then in zip(predict(after, range(done, 12)), expected[2 * done :], strict=True):
            assert (now is None) == (then is None)
            assert now is None or then is None or torch.equal(now, then)
        assert after.reused_steps == whole.reused_steps
