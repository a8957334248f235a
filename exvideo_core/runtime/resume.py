"""Resuming an interrupted sampling run after its last saved step, with the same result.

The state of the run is a file, written whole or not at all. It has the fingerprint of the run and a checksum; a run
resumes from no other file.
"""

from __future__ import annotations

import errno
import glob
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
from torch import Tensor, nn

from ..errors import CheckpointError
from ..nn.fused import is_fused
from ..nn.kernels import are_used
from ..weights.safetensors_files import open_file
from ..weights.write import write_weights
from ..whole_file import part_name
from .fingerprint import environment, fingerprint, sampled

log = logging.getLogger(__name__)

INTERVAL = 5.0  # seconds between two saves, at least
_SHARE = 0.03  # fraction of the time spent on saving, at most
_SPARE = 64_000_000  # bytes to leave free on the disk for the video
_KIND = "a run of exvideo, 1"


@dataclass(frozen=True)
class Point:
    """A solver's state between two steps."""

    step: int  # number of finished steps
    x: Tensor  # the latents after them
    earlier: Tensor | None = None  # denoised latents of the last step, for a second-order solver


class Stateful(Protocol):
    """State of a run besides its solver's, such as a generator of noise."""

    is_whole_in_steps: bool  # whether the network does not change it, so that it is valid in the middle of a step

    def state(self) -> dict[str, Tensor]:
        """Tensors for `restore`."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state."""


class SavedRun:
    """A file for the state of a run.

    Args:
        path: of the file; its folder must exist.
        notes: metadata of the file.
        interval: seconds between two saves; more if saving would take over 3 % of the time.
        tell: called with a sentence when the run resumes, cannot resume, or cannot be saved.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        notes: Mapping[str, str] | None = None,
        interval: float = INTERVAL,
        tell: Callable[[str], None] = log.warning,
    ) -> None:
        self.path, self.notes, self.interval, self.tell = Path(path), dict(notes or {}), interval, tell

    def begin(self, fingerprint: str, x: Tensor, steps: int, parts: Mapping[str, Stateful | None]) -> Recording:
        """Resume from the file if it belongs to the run, restore the parts, and record from there.

        Args:
            x: latents that it starts from; those in the file are moved to their device and dtype.
            parts: stateful parts of the run by name; None if it has no such part.
        """
        self._remove_parts()
        used = {name: part for name, part in parts.items() if part is not None}
        recording = Recording(self, fingerprint, steps, used)
        try:
            recording.start = self._read(fingerprint, x, steps, used)
        except (CheckpointError, OSError, KeyError, ValueError) as error:
            self.tell(f"cannot resume from {self.path.name}: {_cause(error)}. Starting over.")
        if recording.start is not None:
            self.tell(f"resuming after step {recording.start.step} of {steps}")
        return recording

    def forget(self) -> None:
        """Delete the file, once the video is saved."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
        self._remove_parts()

    def _remove_parts(self) -> None:
        """Delete what a killed process left half-written."""
        for left in self.path.parent.glob(part_name(glob.escape(self.path.name), "*")):
            with suppress(OSError):
                left.unlink()

    def _read(self, fingerprint: str, x: Tensor, steps: int, parts: Mapping[str, Stateful]) -> Point | None:
        if not self.path.exists():
            return None
        file = open_file(self.path)
        notes = file.notes
        if notes.get("kind") != _KIND:
            raise ValueError("it is not a saved run")
        if notes["fingerprint"] != fingerprint:
            raise ValueError("it is of another run: other settings, inputs, files or versions")
        # Copies: the mapped file could not be replaced, and rounding may depend on the alignment of the memory.
        tensors = {name: tensor.clone() for name, tensor in file.items()}
        if notes["checksum"] != _checksum(tensors):
            raise ValueError("it is damaged: its checksum differs")
        point = Point(int(notes["step"]), *(tensors[name].to(x) for name in ("x", "earlier") if name in tensors))
        if point.x.shape != x.shape or not 0 < point.step <= steps:
            raise ValueError("it does not fit this run")
        for name, part in parts.items() if point.step < steps else ():
            start = f"{name}/"
            part.restore({key.removeprefix(start): item for key, item in tensors.items() if key.startswith(start)})
        return point

    def write(self, point: Point, notes: Mapping[str, str], parts: Mapping[str, Stateful]) -> None:
        """Save a state in place of the previous one; CheckpointError or OSError if it cannot be written."""
        tensors = {"x": point.x} if point.earlier is None else {"x": point.x, "earlier": point.earlier}
        for name, part in parts.items():
            tensors |= {f"{name}/{key}": item for key, item in part.state().items()}
        saved = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
        needed = sum(tensor.nbytes for tensor in saved.values())
        if shutil.disk_usage(self.path.parent).free < needed + _SPARE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        notes = {**self.notes, **notes, "kind": _KIND, "step": str(point.step), "checksum": _checksum(saved)}
        write_weights(self.path, saved, notes)


class Recording:
    """Saves the state of a run as its solver proceeds."""

    def __init__(self, run: SavedRun, fingerprint: str, steps: int, parts: Mapping[str, Stateful]) -> None:
        self.start: Point | None = None  # state to resume from; None for a new run
        self._run, self._steps, self._parts = run, steps, parts
        self._notes = {"fingerprint": fingerprint, "steps": str(steps)}
        self._next = time.monotonic() + run.interval  # time of the next save
        self._is_failing = False
        self._written = 0  # step of the state in the file

    def keep(self, point: Point, *, at_once: bool = False) -> None:
        """Report a finished step. It is saved once the interval is over, after the last step, or `at_once`.

        A failure to save is reported once and does not end the run.
        """
        begun = time.monotonic()
        is_last = point.step == self._steps
        if begun < self._next and not is_last and not at_once:
            return
        try:
            # after the last step, nothing needs the parts
            self._run.write(point, self._notes, {} if is_last else self._parts)
        except (CheckpointError, OSError) as error:
            if not self._is_failing:
                self._run.tell(f"cannot save the finished steps: {_cause(error)}. The run continues.")
            self._is_failing = True
        else:
            self._is_failing, self._written = False, point.step
        now = time.monotonic()
        self._next = now + max(self._run.interval, (now - begun) / _SHARE)

    def stop(self, point: Point, *, in_step: bool) -> None:
        """Save at once the state of a run that is cancelled or out of memory.

        Args:
            in_step: it ended in the middle of the step after the point.
        """
        is_valid = not in_step or all(part.is_whole_in_steps for part in self._parts.values())
        if is_valid and point.step > max(self._written, self.start.step if self.start else 0):
            self.keep(point, at_once=True)


# runs of pipelines

Resume = SavedRun | str | Path | None  # where the state of a run is saved


def begin(
    resume: Resume,
    network: nn.Module,
    start: Tensor,
    levels: Tensor,
    parts: Mapping[str, Stateful | None],
    settings: Mapping[str, object],
) -> Recording | None:
    """Start a run or resume it; None if its state is not saved.

    Args:
        network: the denoising network, before its weights move.
        start: latents at the first level.
        levels: noise levels, [steps + 1].
        parts: stateful parts of the run by name, such as a source of noise.
        settings: everything else that the result depends on.
    """
    if resume is None:
        return None
    run = resume if isinstance(resume, SavedRun) else SavedRun(resume)
    where = environment(start.device)
    what = fingerprint(
        network=_described(network),
        place=where,
        has_kernels=are_used(start.device),
        start=start,
        levels=levels,
        settings=settings,
    )
    return run.begin(what, start, len(levels) - 1, parts)


def _described(network: nn.Module) -> dict[str, object]:
    """Everything that the network's results depend on; the device of its weights does not matter."""
    weights = [*network.named_parameters(), *network.named_buffers()]
    attention = {getattr(module, "attention", None) for module in network.modules()} - {None}
    with torch.inference_mode():
        return {
            "class": type(network).__name__,
            "weights": sampled(weights),
            "attention": list(attention),
            "is_fused": is_fused(),
            "chunk_bytes": getattr(network, "chunk_bytes", None),
        }


def _cause(error: Exception) -> str:
    if isinstance(error, OSError):
        return str(error.strerror or error)
    return str(error).rstrip(".")


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    total = 0
    for name in sorted(tensors):
        total = zlib.crc32(name.encode(), total)
        total = zlib.crc32(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().data, total)
    return f"{total:08x}"
