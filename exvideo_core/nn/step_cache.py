"""Step reuse: if a network's first block changes little from the last computed step, the other blocks are skipped.

First-block caching (ParaAttention, TeaCache's family, arXiv:2411.19108), with two differences: the residual of the
skipped blocks is not reused as it was but extrapolated linearly from the last two computed steps, and all guidance
branches follow the first one's decision, so that their errors cancel. Approximate; docs/approximations.md has errors
and gains.

A network uses it like this:

    cache.enter(x)
    x = first_block(x)
    if (later := cache.predict(x)) is not None:
        return later
    x = rest(x)
    cache.keep(x)
    return x
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from hashlib import sha256

import torch
from torch import Tensor

_ROOM = 16  # hidden states: room for a forward pass and the cache of two branches on the device


@dataclass(frozen=True, kw_only=True)
class Reuse:
    """Settings: when blocks after the first may be skipped."""

    threshold: float  # largest relative change (L1) of the first block's residual since the last computed step
    in_a_row: int = 2  # skipped steps, at most
    first_steps: int = 2  # always computed
    last_steps: int = 1  # always computed

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold must be above 0 and below 1, not {self.threshold}")
        if self.in_a_row < 1:
            raise ValueError(f"in_a_row must be at least 1, not {self.in_a_row}")


class StepCache:
    """Cache of one run of so many steps.

    If `free` bytes of a device are few, the cache (two hidden states for each branch) is offloaded to host memory.
    """

    is_whole_in_steps = False

    def __init__(self, reuse: Reuse, steps: int, free: Callable[[torch.device], float] = lambda _: math.inf) -> None:
        self.reuse, self.steps, self.free = reuse, steps, free
        self.step = -1
        self.reused_steps = 0
        self._in_a_row = 0
        self._is_reused: bool | None = None  # of the current step, once a branch has decided
        self._branches: dict[str, Branch] = {}
        self._lock = threading.Lock()  # each GPU may run a branch in its own thread

    def begin(self, step: int | None = None) -> None:
        """Start a step, counted from 0, or the next one; repeating its number does nothing."""
        with self._lock:
            step = self.step + 1 if step is None else step
            if step == self.step:
                return
            self._in_a_row = self._in_a_row + 1 if self._is_reused else 0
            self.step, self._is_reused = step, None

    def branch(self, name: Hashable) -> Branch:
        """Cache of one branch: one input of the network in each step, such as cond or uncond."""
        key = sha256(repr(name).encode()).hexdigest()[:16]  # names can be long
        with self._lock:
            return self._branches.setdefault(key, Branch(self, key))

    def branches(self, count: int) -> list[Branch]:
        """Start the next step, and return the caches of its branches."""
        self.begin()
        return [self.branch(index) for index in range(count)]

    def decides(self, change: float | None) -> bool:
        """Whether this step skips blocks; the first branch that asks decides for all."""
        with self._lock:
            if self._is_reused is None:
                reuse = self.reuse
                is_inside = reuse.first_steps <= self.step < self.steps - reuse.last_steps
                is_due = is_inside and self._in_a_row < reuse.in_a_row
                self._is_reused = is_due and change is not None and change < reuse.threshold
                self.reused_steps += self._is_reused
            return self._is_reused

    def state(self) -> dict[str, Tensor]:
        """State between two steps, for `restore` in another process."""
        state = {"counts": torch.tensor([self.step, self.reused_steps, self._in_a_row, bool(self._is_reused)])}
        for key, branch in self._branches.items():
            for which, computed in branch.computed.items():
                state |= {f"{key}/{which}/{what}": item for what, item in computed.items()}
        return state

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Resume from the state of another cache, before any branch is created."""
        self.step, self.reused_steps, self._in_a_row, is_reused = state["counts"].tolist()
        self._is_reused = bool(is_reused)
        for path, item in state.items():
            if path != "counts":
                key, which, what = path.split("/")
                self._branches.setdefault(key, Branch(self, key)).computed[which][what] = item

    def __str__(self) -> str:
        """Log line."""
        return f"step reuse: {self.reused_steps} of {self.steps} steps predicted"


class Branch:
    """Cache of one branch; see the example above.

    Attributes:
        computed: tensors of the last computed step and of one before, empty if there is none: its number `step`, the
            subsampled residual `signal` of the first block, the residual `rest` of the others.
    """

    def __init__(self, cache: StepCache, key: str) -> None:
        self._cache, self._key = cache, key
        self.computed: dict[str, dict[str, Tensor]] = {"last": {}, "earlier": {}}
        self._before: Tensor | None = None  # subsampled input of the first block
        self._first: tuple[Tensor, Tensor] | None = None  # signal and output of the first block, until `keep`

    def part(self, name: Hashable) -> Branch:
        """Cache of one clip, for a network that computes the clips of a batch one by one."""
        return self._cache.branch((self._key, name))

    def enter(self, x: Tensor) -> None:
        """Record the input of the first block, which may overwrite it."""
        self._before = _sample(x).clone()

    def predict(self, first: Tensor) -> Tensor | None:
        """Predict the last block's output from the first's; None if the blocks must be computed, and then kept."""
        assert self._before is not None, "enter comes first"
        signal, last = _sample(first) - self._before, self.computed["last"]
        change = _relative_change(signal, last["signal"].to(signal.device)) if last else None
        self._before = None
        if self._cache.decides(change) and last and last["rest"].shape == first.shape:
            return first + self._continued(first.device)
        kept = self._put(first)
        self._first = signal, kept.clone() if kept is first else kept  # the other blocks may overwrite it
        return None

    def keep(self, last: Tensor) -> None:
        """Cache the residual of the blocks after the first, given the last one's output."""
        assert self._first is not None, "predict comes first"
        signal, first = self._first
        rest = self._put(last - first.to(last.device))
        before = self.computed["last"]
        if not before or before["step"] < self._cache.step:  # else the solver calls twice in a step
            self.computed["earlier"] = before
        self.computed["last"] = {"step": torch.tensor(self._cache.step), "signal": signal, "rest": rest}
        self._first = None

    def _put(self, x: Tensor) -> Tensor:
        """The tensor, or a copy in host memory."""
        if self._cache.free(x.device) >= _ROOM * x.nbytes:
            return x
        if not x.is_cuda:
            return x.to("cpu")
        # pinned memory, which only the GPU reads
        return torch.empty_like(x, device="cpu", pin_memory=True).copy_(x, non_blocking=True)

    def _continued(self, device: torch.device) -> Tensor:
        last, earlier = self.computed["last"], self.computed["earlier"]
        rest = last["rest"].to(device)
        if not earlier or earlier["rest"].shape != rest.shape:
            return rest
        step, earlier_step = int(last["step"]), int(earlier["step"])
        beyond = (self._cache.step - step) / (step - earlier_step)
        return torch.lerp(rest, earlier["rest"].to(device), -beyond)


def _sample(x: Tensor) -> Tensor:
    """Every second item along each axis: enough to compare, and small to cache."""
    return x[tuple(slice(None, None, 2) for _ in x.shape)]


def _relative_change(now: Tensor, before: Tensor) -> float | None:
    if now.shape != before.shape:
        return None
    return float((now - before).abs().mean(dtype=torch.float32) / before.abs().mean(dtype=torch.float32))
