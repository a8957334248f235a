"""The state of a run in a file, so that what was cut off goes on after its last saved step, with the same result.

The file is written whole or not at all. It belongs to one run, by a fingerprint, and holds a checksum: whatever else
lies in its place is not gone on with.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import time
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..weights.safetensors_files import open_file
from ..weights.write import write_weights
from ..whole_file import part_name

log = logging.getLogger(__name__)

Tell = Callable[[str], None]

INTERVAL = 5.0  # seconds between two writings, at least
_SHARE = 0.03  # of the time, at most, for writing
_SPARE = 64_000_000  # bytes to leave free on the disk, for the video
_KIND = "a run of exvideo, 1"


@dataclass(frozen=True)
class Point:
    """Where a solver stands between two steps.

    Attributes:
        step: steps that are done.
        x: the latents after them.
        earlier: denoised latents of the last one, for a solver that looks back.
    """

    step: int
    x: Tensor
    earlier: Tensor | None = None


class Stateful(Protocol):
    """What a run remembers beside its solver, such as a generator of noise.

    Attributes:
        is_whole_in_steps: whether the network's part of a step leaves it alone, so that its state is sound within one.
    """

    is_whole_in_steps: bool

    def state(self) -> dict[str, Tensor]:
        """All that `restore` needs."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Be as what gave the state."""


class SavedRun:
    """A file for the state of a run.

    Args:
        path: of the file; its folder must exist.
        notes: for those who look into the file.
        interval: seconds between two writings; more where writing would take over 3 % of the time.
        tell: is told where the run goes on, why it does not, or that nothing can be saved.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        notes: Mapping[str, str] | None = None,
        interval: float = INTERVAL,
        tell: Tell = log.warning,
    ) -> None:
        self.path, self.notes, self.interval, self.tell = Path(path), dict(notes or {}), interval, tell

    def begin(self, fingerprint: str, x: Tensor, steps: int, parts: Mapping[str, Stateful | None]) -> Recording:
        """Find out where to go on, restore the parts, and record from there.

        Args:
            fingerprint: of the run.
            x: latents that it starts from; those in the file are put where they are.
            steps: in all.
            parts: what the run remembers, by name; None where it has no such part.
        """
        self._remove_parts()
        used = {name: part for name, part in parts.items() if part is not None}
        recording = Recording(self, fingerprint, steps, used)
        try:
            recording.start = self._read(fingerprint, x, steps, used)
        except (CheckpointError, OSError, KeyError, ValueError) as error:
            self.tell(f"{self.path.name} cannot be gone on with ({_cause(error)}); starting anew.")
        if recording.start is not None:
            self.tell(f"going on after step {recording.start.step} of {steps}")
        return recording

    def forget(self) -> None:
        """Remove the file: the video is there."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
        self._remove_parts()

    def _remove_parts(self) -> None:
        """What a process was writing when it was killed."""
        for left in self.path.parent.glob(part_name(_literal(self.path.name), "*")):
            with suppress(OSError):
                left.unlink()

    def _read(self, fingerprint: str, x: Tensor, steps: int, parts: Mapping[str, Stateful]) -> Point | None:
        if not self.path.exists():
            return None
        file = open_file(self.path)
        notes = file.notes
        if notes.get("kind") != _KIND:
            raise ValueError("it is no saved run")
        if notes["fingerprint"] != fingerprint:
            raise ValueError("it is of another run: other settings, inputs, files or versions")
        # copies, for no system lets go of a mapped file, and addresses of the usual kind, which rounding may depend on
        tensors = {name: tensor.clone() for name, tensor in file.items()}
        if notes["checksum"] != _checksum(tensors):
            raise ValueError("it is damaged: its checksum is another one")
        point = Point(int(notes["step"]), *(tensors[name].to(x) for name in ("x", "earlier") if name in tensors))
        if point.x.shape != x.shape or not 0 < point.step <= steps:
            raise ValueError("it does not fit this run")
        for name, part in parts.items() if point.step < steps else ():
            start = f"{name}/"
            part.restore({key.removeprefix(start): item for key, item in tensors.items() if key.startswith(start)})
        return point

    def write(self, point: Point, notes: Mapping[str, str], parts: Mapping[str, Stateful]) -> None:
        """Put a state in the place of the one before.

        Raises:
            CheckpointError, OSError: the disk refuses.
        """
        tensors = {"x": point.x} if point.earlier is None else {"x": point.x, "earlier": point.earlier}
        for name, part in parts.items():
            tensors |= {f"{name}/{key}": item for key, item in part.state().items()}
        there = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
        needed = sum(tensor.nbytes for tensor in there.values())
        if shutil.disk_usage(self.path.parent).free < needed + _SPARE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        notes = {**self.notes, **notes, "kind": _KIND, "step": str(point.step), "checksum": _checksum(there)}
        write_weights(self.path, there, notes)


class Recording:
    """What a solver tells of a run.

    Attributes:
        start: where to go on; None at the beginning.
    """

    def __init__(self, run: SavedRun, fingerprint: str, steps: int, parts: Mapping[str, Stateful]) -> None:
        self.start: Point | None = None
        self._run, self._steps, self._parts = run, steps, parts
        self._notes = {"fingerprint": fingerprint, "steps": str(steps)}
        self._next = time.monotonic() + run.interval  # when it may be written again
        self._is_failing = False
        self._written = 0  # step of the state in the file

    def keep(self, point: Point, *, at_once: bool = False) -> None:
        """Note where the run stands after a step; written now and then, and after the last step, or `at_once`.

        That the disk refuses is told once, and does not end the run.
        """
        begun = time.monotonic()
        is_last = point.step == self._steps
        if begun < self._next and not is_last and not at_once:
            return
        try:
            # what is remembered for the steps to come is of no use after the last one
            self._run.write(point, self._notes, {} if is_last else self._parts)
        except (CheckpointError, OSError) as error:
            if not self._is_failing:
                self._run.tell(f"the steps done so far cannot be saved ({_cause(error)}); the run goes on.")
            self._is_failing = True
        else:
            self._is_failing, self._written = False, point.step
        now = time.monotonic()
        self._next = now + max(self._run.interval, (now - begun) / _SHARE)

    def stop(self, point: Point, *, in_step: bool) -> None:
        """Note at once where a run stood that ends before its time: cancelled, or without memory.

        Args:
            in_step: it ended within the step after the point.
        """
        is_sound = not in_step or all(part.is_whole_in_steps for part in self._parts.values())
        if is_sound and point.step > max(self._written, self.start.step if self.start else 0):
            self.keep(point, at_once=True)


def _cause(error: Exception) -> str:
    if isinstance(error, OSError):
        return str(error.strerror or error)
    return str(error).rstrip(".")


def _literal(name: str) -> str:
    """For a glob pattern."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    total = 0
    for name in sorted(tensors):
        total = zlib.crc32(name.encode(), total)
        total = zlib.crc32(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().data, total)
    return f"{total:08x}"
