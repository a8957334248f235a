"""The training loop: steps, held-out losses, checkpoints, exports and validation videos.

It can be killed at any moment and resumed. A step depends on the configuration and its number alone, so that a run that
was interrupted, or moved to another number of GPUs, ends as it would have ended.
"""

from __future__ import annotations

import json
import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from ..errors import ExVideoError
from ..evaluation.plots import plot_training
from ..files import quoted
from ..runtime.distributed import World
from .checkpoints import Checkpoints, read_note
from .config import fingerprint, free_keys
from .engine import TorchEngine
from .engine_deepspeed import DeepSpeedEngine
from .logs import Table, TensorBoard
from .optimizers import learning_rate
from .recipe import Target
from .settings import RunConfig, Training

log = logging.getLogger(__name__)
OnStep = Callable[[int, int, float], None]  # the finished step, their number, and its loss


class Run:
    """A run in its folder; all processes make the same calls."""

    def __init__(self, config: Training, target: Target[Any, Any], world: World) -> None:
        self.config, self.target, self.world = config, target, world
        self.folder = Path(config.run.output)
        self.step = 0
        self._per_rank = config.run.batch_size // world.size
        self.engine = make_engine(config, target, world)
        self.checkpoints = Checkpoints(self.folder / "checkpoints", config.run.keep_last, world)
        if newest := self.checkpoints.newest():
            self.step = check_resumable(config, newest)
            self.engine.load(newest)
            log.info("resuming at step %d", self.step)
        if world.is_first:
            self._open_logs()

    def train(self, on_step: OnStep | None = None) -> bool:
        """Train to the last step; False if a signal ended the run early, after a checkpoint."""
        run = self.config.run
        with _stoppable() as is_stopped:
            if self.step == 0:
                self._measure()
            elif self.step % run.save_every == 0 or self.step == run.steps:
                self._export()  # the run may have been killed between checkpoint and export
            first = self.step
            while self.step < run.steps:
                loss = self._one_step()
                if self.step == first + 1:
                    self._log_memory()
                if on_step:
                    on_step(self.step, run.steps, loss)
                self._after_step()
                if any(self.world.gather(is_stopped())) and self.step < run.steps:
                    self._save()
                    return False
        return True

    def _log_memory(self) -> None:
        held = ", ".join(f"{kind} {size / 1e6:,.1f} MB" for kind, size in self.engine.bytes_held().items())
        frozen = self.target.num_frozen / 1e6
        log.info("%.1f million parameters are frozen; for the trained ones this process keeps %s", frozen, held)

    def _one_step(self) -> float:
        run, optimizer = self.config.run, self.config.optimizer
        began = time.monotonic()
        rate = learning_rate(self.step, run.steps, optimizer.warmup_steps, optimizer.hold)
        first = self.step * run.batch_size
        # round-robin, so that one process sums in the order of the clips
        positions = range(first + self.world.rank, first + run.batch_size, self.world.size)
        losses = self.engine.backward((partial(self.target.loss, i, self.step) for i in positions), self._per_rank)
        norm = self.engine.step(rate)
        loss = self.world.total([sum(losses)])[0] / run.batch_size
        if not loss < float("inf"):
            raise ExVideoError(
                f"the loss is NaN or Inf ({loss}) at step {self.step + 1}: lower optimizer.learning_rate, or look for "
                f"broken clips. The last checkpoint was written before."
            )
        self.step += 1
        if self.world.is_first:
            seconds = time.monotonic() - began
            self._log.add([self.step, loss, optimizer.learning_rate * rate, norm, round(seconds, 3)])
            if self._board:
                self._board.add(self.step, {"loss": loss, "gradient norm": norm, "seconds": seconds})
        return loss

    def _after_step(self) -> None:
        run = self.config.run
        is_last = self.step == run.steps
        if is_last or (run.held_out_every and self.step % run.held_out_every == 0):
            self._measure()
            self._plot()
        if self.step % run.save_every == 0 or is_last:
            self._save()
            self._export()
        if run.validate_every and (self.step % run.validate_every == 0 or is_last):
            self._sample()

    def _measure(self) -> None:
        if not self.config.run.held_out_every or not self.target.num_held_out:
            return
        with self.engine.averaged():
            by_frame = held_out_loss(self.target, self.world)
        means = summary(by_frame, self.target.base_frames)
        log.info("step %d: held-out loss %.4f; %.4f within the base's frames, %.4f beyond", self.step, *means.values())
        if self.world.is_first:
            self._held_out.add([self.step, *means.values()])
            columns = ["step", *map(str, range(len(by_frame)))]
            Table(self.folder / "held_out_frames.csv", columns, self.step - 1).add([self.step, *by_frame])
            if self._board:
                self._board.add(self.step, {f"held out/{name}": value for name, value in means.items()})

    def _plot(self) -> None:
        if self.world.is_first:
            try:
                plot_training(self._log.path, self._held_out.path, self.folder / "curve.png")
            except ExVideoError as error:  # a missing plot must not end a run
                log.warning("%s", error)

    def _save(self) -> None:
        note = {"fingerprint": fingerprint(self.config), "config": self.config.model_dump()}
        self.checkpoints.save(self.step, self.engine.save, note)

    def _averaged_weights(self) -> dict[str, Tensor]:
        with self.engine.averaged():
            return self.engine.gathered()

    def _export(self) -> None:
        """Write the published file format, for this step and as the newest; delete exports of deleted checkpoints."""
        weights = self._averaged_weights()
        if self.world.is_first:
            run, folder = self.config.run, self.folder / "exports"
            for path in (folder / f"{run.name}_{self.step:08}.safetensors", self.folder / f"{run.name}.safetensors"):
                self.target.export(weights, path)
            for old in sorted(folder.glob(f"{run.name}_*.safetensors"))[: -run.keep_last]:
                old.unlink()

    def _sample(self) -> None:
        """Make a validation video with an exported file, on the first process's GPU."""
        weights = self._averaged_weights()
        if self.world.is_first:
            folder = self.folder / "validation"
            folder.mkdir(exist_ok=True)
            exported = folder / ".now.safetensors"
            self.target.export(weights, exported)
            self.target.sample(exported, folder / f"step_{self.step:08}.mp4")
            exported.unlink()
        self.world.wait()

    def _open_logs(self) -> None:
        columns = ("step", "loss", "learning_rate", "gradient_norm", "seconds")
        self._log = Table(self.folder / "log.csv", columns, self.step)
        # at step 0 nothing has been measured yet
        kept = self.step or -1
        self._held_out = Table(self.folder / "held_out.csv", ("step", "all", "within", "beyond"), kept)
        self._board = TensorBoard(self.folder / "tensorboard") if self.config.run.tensorboard else None


def held_out_loss(target: Target[Any, Any], world: World) -> list[float]:
    """Mean error of v for each frame (or latent frame) of held-out clips; a collective call, which shares the work.

    It is taken at fixed noise levels and with fixed noise, needs no sampling, and is comparable between steps.
    """
    count = target.num_held_out
    rounds = -(-count // world.size)
    # every process takes part in every round, because gathering sharded weights is collective
    mine = [min(i * world.size + world.rank, count - 1) for i in range(rounds)]
    errors = {item: target.held_out_errors(item).tolist() for item in mine}
    measured: dict[int, list[float]] = {}
    for part in world.gather(errors):
        measured |= part
    by_item = torch.tensor([measured[item] for item in sorted(measured)], dtype=torch.float64)
    return by_item.mean(dim=0).tolist()


def summary(by_frame: list[float], base_frames: int) -> dict[str, float]:
    """Means over all frames, those that the base was trained on, and those beyond (over all, if there are none)."""
    parts = {"all": by_frame, "within": by_frame[:base_frames], "beyond": by_frame[base_frames:] or by_frame}
    return {name: sum(errors) / len(errors) for name, errors in parts.items()}


def make_engine(config: Training, target: Target[Any, Any], world: World) -> TorchEngine:
    """The engine that the configuration names; ExVideoError as in `check_batch`."""
    check_batch(config.run, world.size)
    parts = target.units, config.optimizer, config.run.average, world
    if config.run.engine == "deepspeed":
        return DeepSpeedEngine(*parts, config.run.batch_size // world.size)
    return TorchEngine(*parts)


def check_batch(run: RunConfig, world: int) -> None:
    """Raise ExVideoError unless the processes can share the clips of a step evenly."""
    if run.batch_size % world:
        nearest = max(1, round(run.batch_size / world)) * world
        raise ExVideoError(
            f"run.batch_size is {run.batch_size}, which {world} processes cannot share evenly; {nearest} would do."
        )


def check_resumable(config: Training, checkpoint: Path) -> int:
    """The step of a checkpoint; ExVideoError with what differs if it is of another configuration."""
    note = read_note(checkpoint)
    if note.get("fingerprint") == fingerprint(config):
        return int(note["step"])
    theirs, ours = note.get("config"), json.loads(config.model_dump_json())
    if not isinstance(theirs, dict):
        raise ExVideoError(
            f"cannot resume from {checkpoint}: it does not say of which configuration it is. Choose another run.output."
        )
    free = free_keys(config)
    if changes := [change for change in _differences(theirs, ours) if change[0] not in free]:
        listed = "; ".join(f"{key} was {was} and is {now}" for key, was, now in changes)
        raise ExVideoError(
            f"cannot resume: {checkpoint.parent.parent} has a run of another configuration: {quoted(listed, 1000)}. "
            f"Change it back to resume, or choose another run.output to start over."
        )
    return int(note["step"])


def _differences(was: Any, now: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:  # noqa: ANN401  of JSON
    for key in dict.fromkeys([*was, *now]):
        one, other = was.get(key), now.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            yield from _differences(one, other, f"{prefix}{key}.")
        elif one != other:
            yield f"{prefix}{key}", one, other


@contextmanager
def _stoppable() -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C and a scheduler's SIGTERM into a flag; the second one ends the program as usual."""
    stopped = False

    def on_signal(number: int, _frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True
        log.warning("stopping after this step; press Ctrl-C again to stop at once")
        signal.signal(number, signal.default_int_handler)

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
