"""Step reuse: where the first block of a network does nearly what it did before, the rest is not computed again.

The idea is first-block caching (ParaAttention, TeaCache's family, arXiv:2411.19108). Here what the rest adds is not
taken over as it was, but continued along the line through the last two steps that were computed, and all branches of
the guidance follow the first one's decision, so that their errors cancel. Approximate; docs/approximations.md has
errors and gains.

A network with such a cache does this:

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

_ROOM = 16  # hidden states that a forward pass and the memories of two branches have room for on the device


def _unlimited(_device: torch.device) -> float:
    return math.inf


@dataclass(frozen=True, kw_only=True)
class Reuse:
    """When the rest of a network may be predicted."""

    threshold: float  # largest relative change (L1) of what the first block adds, since a step was computed
    in_a_row: int = 2  # steps, at most
    first_steps: int = 2  # always computed
    last_steps: int = 1  # likewise

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold must be above 0 and below 1, not {self.threshold}")
        if self.in_a_row < 1:
            raise ValueError(f"in_a_row must be at least 1, not {self.in_a_row}")


@dataclass
class _Computed:
    """What is remembered of a step."""

    step: int
    signal: Tensor  # a sample of what the first block added
    rest: Tensor  # what the others added

    def tensors(self) -> dict[str, Tensor]:
        return {"step": torch.tensor(self.step), "signal": self.signal, "rest": self.rest}


class StepCache:
    """Memory of one run.

    Args:
        reuse: settings.
        steps: of the run.
        free: bytes there are on a device. What is remembered, two hidden states for each branch, goes to main memory
            where they are few.
    """

    is_whole_in_steps = False

    def __init__(self, reuse: Reuse, steps: int, free: Callable[[torch.device], float] = _unlimited) -> None:
        self.reuse, self.steps, self.free = reuse, steps, free
        self.step = -1
        self.reused_steps = 0
        self._in_a_row = 0
        self._is_reused: bool | None = None  # of the current step, once a branch has decided
        self._branches: dict[Hashable, Branch] = {}
        self._restored: dict[str, Tensor] = {}  # what branches take when they are first asked for
        self._lock = threading.Lock()  # branches may run in a thread for each GPU

    def begin(self, step: int | None = None) -> None:
        """Start a step, counted from 0, or the next one; a second call with its number does nothing."""
        with self._lock:
            step = self.step + 1 if step is None else step
            if step == self.step:
                return
            self._in_a_row = self._in_a_row + 1 if self._is_reused else 0
            self.step, self._is_reused = step, None

    def branch(self, name: Hashable) -> Branch:
        """Memory of one of the inputs that the network sees in each step, such as those with and without a text."""
        with self._lock:
            if name not in self._branches:
                self._branches[name] = Branch(self, name)
                self._branches[name].restore(self._restored)
            return self._branches[name]

    def branches(self, count: int) -> list[Branch]:
        """Start the next step, which sees so many inputs."""
        self.begin()
        return [self.branch(index) for index in range(count)]

    def decides(self, change: float | None) -> bool:
        """Whether this step is to be predicted; the first branch that asks decides for all."""
        with self._lock:
            if self._is_reused is None:
                self._is_reused = self._is_due() and change is not None and change < self.reuse.threshold
                self.reused_steps += self._is_reused
            return self._is_reused

    def _is_due(self) -> bool:
        reuse = self.reuse
        is_inside = reuse.first_steps <= self.step < self.steps - reuse.last_steps
        return is_inside and self._in_a_row < reuse.in_a_row

    def state(self) -> dict[str, Tensor]:
        """All that is remembered between two steps, for `restore` in another process."""
        counts = torch.tensor([self.step, self.reused_steps, self._in_a_row, bool(self._is_reused)])
        state = {**self._restored, "counts": counts}
        for branch in self._branches.values():
            state |= branch.state()
        return state

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on after the step at which another cache gave this state; before any branch is asked for."""
        self.step, self.reused_steps, self._in_a_row, is_reused = state["counts"].tolist()
        self._is_reused = bool(is_reused)
        self._restored = {key: item for key, item in state.items() if key != "counts"}

    def __str__(self) -> str:
        """For the log."""
        return f"step reuse: {self.reused_steps} of {self.steps} steps predicted"


class Branch:
    """Memory of one branch; see the example above."""

    def __init__(self, cache: StepCache, name: Hashable) -> None:
        self._cache, self._name = cache, name
        self._key = sha256(repr(name).encode()).hexdigest()[:16]  # names may be as long as a context window
        self._last: _Computed | None = None
        self._earlier: _Computed | None = None
        self._before: Tensor | None = None  # sample of the first block's input
        self._first: tuple[Tensor, Tensor] | None = None  # signal and output of the first block, until `keep`

    def part(self, name: Hashable) -> Branch:
        """Of one of several clips that a network computes one after the other."""
        return self._cache.branch((self._name, name))

    def state(self) -> dict[str, Tensor]:
        """What `restore` needs, with the branch's name in every key."""
        remembered = {"last": self._last, "earlier": self._earlier}
        return {
            f"{self._key}/{which}/{what}": item
            for which, computed in remembered.items()
            if computed is not None
            for what, item in computed.tensors().items()
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take what belongs to this branch out of a state."""

        def take(which: str) -> _Computed | None:
            kept = [state.pop(f"{self._key}/{which}/{what}", None) for what in ("step", "signal", "rest")]
            step, signal, rest = kept
            return None if step is None or signal is None or rest is None else _Computed(int(step), signal, rest)

        self._last, self._earlier = take("last"), take("earlier")

    def enter(self, x: Tensor) -> None:
        """Note what goes into the first block, which may then change it in place."""
        self._before = _sample(x).clone()

    def predict(self, first: Tensor) -> Tensor | None:
        """From the first block's output to the last one's; None if the others are to be computed, and kept."""
        assert self._before is not None, "enter comes first"
        signal = _sample(first) - self._before
        change = None if self._last is None else _relative_change(signal, self._last.signal.to(signal.device))
        self._before = None
        if self._cache.decides(change) and self._last is not None and self._last.rest.shape == first.shape:
            return first + self._continued(first.device)
        kept = self._put(first)
        self._first = signal, kept.clone() if kept is first else kept  # the rest may change it in place
        return None

    def keep(self, last: Tensor) -> None:
        """Remember what the blocks after the first made of its output."""
        assert self._first is not None, "predict comes first"
        signal, first = self._first
        rest = self._put(last - first.to(last.device))
        if self._last is None or self._last.step < self._cache.step:  # else a solver looks twice in a step
            self._earlier = self._last
        self._last = _Computed(self._cache.step, signal, rest)
        self._first = None

    def _put(self, x: Tensor) -> Tensor:
        """The tensor, or a copy in main memory."""
        if self._cache.free(x.device) >= _ROOM * x.nbytes:
            return x
        if not x.is_cuda:
            return x.to("cpu")
        # locked memory, from where it comes back at full speed; nobody but the GPU reads it
        return torch.empty_like(x, device="cpu", pin_memory=True).copy_(x, non_blocking=True)

    def _continued(self, device: torch.device) -> Tensor:
        last, earlier = self._last, self._earlier
        assert last is not None
        rest = last.rest.to(device)
        if earlier is None or earlier.rest.shape != rest.shape:
            return rest
        beyond = (self._cache.step - last.step) / (last.step - earlier.step)
        return torch.lerp(rest, earlier.rest.to(device), -beyond)


def _sample(x: Tensor) -> Tensor:
    """Every second item along each axis: enough to compare by, and little to remember."""
    return x[tuple(slice(None, None, 2) for _ in x.shape)]


def _relative_change(now: Tensor, before: Tensor) -> float | None:
    if now.shape != before.shape:
        return None
    return float((now - before).abs().mean(dtype=torch.float32) / before.abs().mean(dtype=torch.float32))
