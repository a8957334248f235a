"""Checkpoints that survive a kill at any moment: a folder gets its name only when all of it is written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import ExVideoError
from ..files import quoted, read_small
from ..runtime.distributed import World
from ..whole_file import cannot_write

_NOTE = "run.json"
_PARTIAL = ".partial"
_OLD = ".old_"
_MOST_BYTES = 1_000_000  # of a note, which holds a configuration


class Checkpoints:
    """The newest `keep` checkpoints of a run, each in a folder; the processes save together."""

    def __init__(self, folder: Path, keep: int, world: World) -> None:
        self.folder, self.keep, self.world = folder, keep, world
        if world.is_first:
            folder.mkdir(parents=True, exist_ok=True)
            for left in (*folder.glob(_PARTIAL), *folder.glob(f"{_OLD}*")):  # of a run that was killed
                shutil.rmtree(left)
        world.wait()

    def newest(self) -> Path | None:
        """The checkpoint to resume from."""
        return max(self.folder.glob("step_*"), default=None)

    def save(self, step: int, write: Callable[[Path], None], note: Mapping[str, Any]) -> Path:
        """Have all processes `write` their part into a folder, then give it its name, and delete the oldest.

        ExVideoError if it cannot be written; earlier checkpoints are intact.
        """
        final, partial = self.folder / f"step_{step:08}", self.folder / _PARTIAL
        try:
            if not final.exists():  # else a run that was stopped at this step has saved it
                if self.world.is_first:
                    shutil.rmtree(partial, ignore_errors=True)  # of a save that failed on a full disk
                    partial.mkdir()
                self.world.wait()
                write(partial)
                self.world.wait()
                if self.world.is_first:
                    (partial / _NOTE).write_text(json.dumps({"step": step, **note}), encoding="utf-8")
                    _sync(partial)
                    partial.rename(final)
                    _sync(self.folder)
            if self.world.is_first:
                self._prune()
        except OSError as error:
            raise ExVideoError(
                f"{cannot_write(final, error)} Then run the same command again: it resumes from the checkpoint before."
            ) from error
        self.world.wait()
        return final

    def _prune(self) -> None:
        for old in sorted(self.folder.glob("step_*"))[: -self.keep]:
            gone = self.folder / f"{_OLD}{old.name}"
            old.rename(gone)  # first, so that a kill leaves no half checkpoint under a name
            shutil.rmtree(gone)


def read_note(checkpoint: Path) -> dict[str, Any]:
    """The step and the configuration that were saved beside the weights."""
    try:
        note: dict[str, Any] = json.loads(read_small(checkpoint / _NOTE, _MOST_BYTES))
        if not isinstance(note, dict) or type(note["step"]) is not int:
            raise ValueError("its note lacks the step")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ExVideoError(
            f"cannot resume from {checkpoint}: it is no checkpoint, or damaged ({quoted(str(error))}). Delete it to "
            f"resume from the one before."
        ) from error
    return note


def _sync(folder: Path) -> None:
    """fsync a folder, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
