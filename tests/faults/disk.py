"""Disks, folders, ffmpeg, clocks and processes that fail while something is written."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import torch
from narrow_svd import noise

from exvideo_core.errors import ExVideoError
from exvideo_core.runtime.distributed import World
from exvideo_core.training.checkpoints import Checkpoints
from exvideo_core.video import ffmpeg, load_frames, save_poster, save_video
from exvideo_core.weights.write import write_weights

from .outcomes import HALF, LOST, OTHER, SAME, STOPPED, Count, end_of

CLIP = torch.rand(24, 48, 64, 3, generator=torch.Generator().manual_seed(0))
KINDS = ("clip.mp4", "clip.mov", "clip.webm", "clip.mkv", "clip.gif", "clip.webp")
SOUND = (torch.zeros(1, 40000), 8000)
TAGS = {"prompt": '{"1": {}}', "workflow": '{"nodes": []}'}
ROOT = Path(__file__).resolve().parents[2]


class CancelError(Exception):
    """What a person's Cancel raises."""


def write_clip(path: Path, progress: Callable[..., None] | None = None) -> None:
    """With sound and tags where the kind of file has them, and a poster."""
    has_sound = path.suffix not in (".gif", ".webp")
    has_tags = path.suffix in (".mp4", ".webm", ".webp")
    save_video(
        CLIP, path, 8, audio=SOUND if has_sound else None, metadata=TAGS if has_tags else None, progress=progress
    )
    save_poster(CLIP[0], path.with_suffix(".png"), TAGS)


def attempt(count: Count, label: str, folder: Path, work: Callable[[], object]) -> None:
    """Do it, count how it ended, and look at what is in the folder."""
    before, kept = set(map(id, ffmpeg_runs)), CLIP.clone()
    try:
        work()
        end: str | None = SAME
    except (CancelError, KeyboardInterrupt):
        end = STOPPED
    except Exception as error:  # noqa: BLE001  the harm to be counted
        end = end_of(error)
        if end is None:
            count.add_harm(OTHER, f"{label}: {type(error).__name__}: {error}")
            end = "error"
    count.add(end)
    if not torch.equal(CLIP, kept):
        count.add_harm(LOST, f"{label}: the frames have changed")
    if any(run.poll() is None for run in ffmpeg_runs if id(run) not in before):
        count.add_harm(OTHER, f"{label}: an ffmpeg still runs")
    look(count, label, folder)


def look(count: Count, label: str, folder: Path, *, may_be_hidden: bool = False) -> None:
    """What has a name must be whole; nothing else may be there."""
    for path in sorted(folder.iterdir()) if folder.exists() else ():
        if path.name.startswith("."):
            if not may_be_hidden:
                count.add_harm(OTHER, f"{label}: {path.name} stays")
        elif not _is_whole(path):
            count.add_harm(HALF, f"{label}: {path.name}")


def _is_whole(path: Path) -> bool:
    from PIL import Image
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return len(load_file(path)) == len(WEIGHTS)
        if path.suffix == ".png":
            with Image.open(path) as picture:
                picture.load()
            return True
        return len(list(load_frames(path))) == len(CLIP)
    except (ExVideoError, OSError):
        return False


ffmpeg_runs: list[subprocess.Popen[bytes]] = []


@contextmanager
def knowing_ffmpeg() -> Iterator[None]:
    """In it, all runs of ffmpeg are in `ffmpeg_runs`."""
    start = ffmpeg._start

    def noted(*given: object) -> subprocess.Popen[bytes]:
        ffmpeg_runs.append(start(*given))  # type: ignore[arg-type]
        return ffmpeg_runs[-1]

    with patch.object(ffmpeg, "_start", noted):
        yield


def in_folders(inject: Callable[[Count, Path, int], None]) -> Callable[[int], Count]:
    """An injection that writes into a folder of its own."""

    def run(stride: int) -> Count:
        count = Count()
        with tempfile.TemporaryDirectory() as folder, knowing_ffmpeg():
            inject(count, Path(folder), stride)
        return count

    return run


# ffmpeg


def cancel_at_frames(count: Count, folder: Path, stride: int) -> None:
    """Cancel after each frame that is written."""
    for kind in KINDS:
        for last in range(1, len(CLIP) + 1, stride):

            def progress(done: int, _all: int | None, last: int = last) -> None:
                if done == last:
                    raise CancelError

            attempt(count, f"{kind}, frame {last}", folder, lambda p=progress, k=kind: write_clip(folder / k, p))


def kill_ffmpeg(count: Count, folder: Path, stride: int) -> None:
    """SIGKILL after each frame, and after the last when ffmpeg finishes the file."""
    for kind in KINDS:
        for last in range(1, len(CLIP) + 1, stride):

            def progress(done: int, _all: int | None, last: int = last) -> None:
                if done == last:
                    ffmpeg_runs[-1].kill()

            attempt(count, f"{kind}, frame {last}", folder, lambda p=progress, k=kind: write_clip(folder / k, p))
            clear(folder)
    finish = ffmpeg.FFmpeg.finish

    def killed(self: ffmpeg.FFmpeg) -> str:
        self._process.kill()
        return finish(self)

    with patch.object(ffmpeg.FFmpeg, "finish", killed):
        for kind in KINDS:
            attempt(count, f"{kind}, at its end", folder, lambda k=kind: write_clip(folder / k))


def no_ffmpeg(count: Count, folder: Path, stride: int) -> None:
    """It is not installed, cannot be started, or ends at once with an error."""
    script = folder.parent / f"{folder.name}-ffmpeg"
    for text in (None, "no program", "#!/bin/sh\necho 'something is wrong with me' >&2\nexit 1\n"):
        if text is not None:
            script.write_text(text)
            script.chmod(0o755)
        with patch.dict(os.environ, {"IMAGEIO_FFMPEG_EXE": str(script)}):
            for kind in KINDS[::stride]:
                attempt(count, f"{kind}, ffmpeg is {text!r}", folder, lambda k=kind: write_clip(folder / k))
    script.unlink()


# disks


@contextmanager
def disk(num_bytes: int) -> Iterator[Path | None]:
    """A file system of this size; None where nobody may make one."""
    with tempfile.TemporaryDirectory() as name:
        command = ["mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "exvideo-faults", name]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
            yield None
            return
        try:
            yield Path(name)
        finally:
            subprocess.run(["umount", "-l", name], check=True)


def can_make_disks() -> bool:
    """Whether this system and user may."""
    with disk(2**16) as folder:
        return folder is not None


def on_full_disks(write: Callable[[Path], None], names: tuple[str, ...], largest: int) -> Callable[[int], Count]:
    """Write where there is room for nothing, a little more, and so on until it fits."""

    def inject(stride: int) -> Count:
        count = Count()
        with knowing_ffmpeg():
            for name in names:
                for pages in range(1, largest // 4096 + 1, max(1, stride * largest // 4096 // 40)):
                    with disk(4096 * pages) as folder:
                        if folder is not None:
                            attempt(count, f"{name}, {pages} pages", folder, lambda f=folder, n=name: write(f / n))
        return count

    return inject


def read_only(count: Count, _folder: Path, stride: int) -> None:
    """A folder that nobody can write to."""
    with disk(2**20) as folder:
        if folder is None:
            return
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        for name in KINDS[::stride]:
            attempt(count, name, folder, lambda n=name: write_clip(folder / n))
        attempt(count, "weights", folder, lambda: write_weights(folder / "x.safetensors", WEIGHTS))


def vanishing(count: Count, folder: Path, stride: int) -> None:
    """The folder is deleted after a frame."""
    for kind in KINDS:
        for last in range(1, len(CLIP) + 1, 6 * stride):
            inner = folder / f"output-{kind}-{last}"
            inner.mkdir()

            def progress(done: int, _all: int | None, inner: Path = inner, last: int = last) -> None:
                if done == last:
                    shutil.rmtree(inner, ignore_errors=True)

            attempt(count, f"{kind}, frame {last}", inner, lambda p=progress, i=inner, k=kind: write_clip(i / k, p))


def clear(folder: Path) -> None:
    """Take out all files."""
    for path in folder.iterdir():
        path.unlink()


# weights

WEIGHTS = {f"layer{i}": noise(32, 32, seed=i) for i in range(20)}


LARGE = {f"layer{i}": noise(512, 512, seed=i) for i in range(20)}


def write_file(path: Path) -> None:
    """A weight file."""
    write_weights(path, WEIGHTS)


def write_large_file(path: Path) -> None:
    """One that takes long enough to be killed in it."""
    write_weights(path, LARGE)


def training_checkpoints(count: Count, _folder: Path, stride: int) -> None:
    """A disk that is full when a run saves its state; the state before must stay, and room again must be enough."""
    for pages in range(2, 60, stride):
        with disk(4096 * pages) as folder:
            if folder is None:
                return
            saves = Checkpoints(folder / "checkpoints", 2, World())
            ballast = folder / "ballast"

            def write(target: Path) -> None:
                (target / "state").write_bytes(bytes(60_000))

            label = f"{pages} pages"
            attempt(count, label, folder / "none", lambda s=saves: [s.save(n, write, {}) for n in (1, 2, 3)])
            whole = [each for each in saves.folder.glob("step_*") if (each / "state").stat().st_size == 60_000]
            if len(whole) != len(list(saves.folder.glob("step_*"))):
                count.add_harm(HALF, label)
            ballast.unlink(missing_ok=True)


# clocks


@contextmanager
def jumping_clock() -> Iterator[None]:
    """The time of day jumps by a day at every look, back and forth."""
    looks = 0

    def now() -> float:
        nonlocal looks
        looks += 1
        return 1.7e9 + (86400.0 if looks % 2 else -86400.0) * looks

    with patch.object(time, "time", now):
        yield


def clock_jumps(count: Count, folder: Path, stride: int) -> None:
    """The time of day jumps while a clip is made, written and its progress shown."""
    from exvideo_core.terminal.progress import Bar

    from . import core_subjects

    pipe = core_subjects.cog_pipeline()
    for kind in KINDS[::stride]:

        def work(kind: str = kind) -> None:
            with jumping_clock(), Bar("sampling", "step") as sampling, Bar("writing", "frame") as writing:
                core_subjects.cog_clip(pipe, callback=lambda step, steps, _: sampling(step, steps))
                write_clip(folder / kind, writing)

        attempt(count, kind, folder, work)


# processes

_WRITER = """
import sys
sys.path[:0] = {paths!r}
from pathlib import Path
import torch
torch.set_num_threads(1)
from faults import disk
print("ready", flush=True)
number = 0
while True:
    number += 1
    {what}
"""


def kill_the_writer(what: str, suffix: str, kills: int) -> Callable[[int], Count]:
    """SIGKILL to the process that writes one file after another, at ever later moments."""

    def inject(stride: int) -> Count:
        count = Count()
        code = _WRITER.format(paths=[str(ROOT), str(ROOT / "tests")], what=what)
        for number in range(0, kills, stride):
            with tempfile.TemporaryDirectory() as name:
                command = [sys.executable, "-c", code, name, suffix]
                with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
                    assert process.stdout is not None
                    process.stdout.readline()
                    time.sleep(0.013 * number)
                    os.killpg(process.pid, signal.SIGKILL)
                count.add(STOPPED)
                look(count, f"{suffix}, kill {number}", Path(name), may_be_hidden=True)
        return count

    return inject


CLIP_AFTER_CLIP = "disk.write_clip(Path(sys.argv[1]) / f'{number}{sys.argv[2]}')"
FILE_AFTER_FILE = "disk.write_large_file(Path(sys.argv[1]) / f'{number}{sys.argv[2]}')"
