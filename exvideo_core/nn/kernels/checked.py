"""A kernel that is used once its result was found equal to its twin's, for each dtype and shape.

Kernels are compiled on the user's machine, by another Triton and for another card than they were tested with. So the
first call with a dtype and shape computes both, and a kernel that fails to compile or differs is left out, with one
line in the log.
"""

from __future__ import annotations

import importlib.util
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, update_wrapper
from typing import Any, Generic, Literal, ParamSpec, TypeVar

import torch
from torch import Tensor

from ..chunks import items_within, spans
from ..out_of_memory import is_out_of_memory

Mode = Literal["auto", "off", "unchecked"]
P = ParamSpec("P")
Result = TypeVar("Result", Tensor, tuple[Tensor, ...])

# Norm of the difference over the norm of the twin's result, by the result's dtype: some roundings.
_MAX_DIFFERENCE = {torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
_COMPARED = 2**22  # elements at a time, so that comparing takes little memory
_FASTER = 0.9  # of the time of a vendor's kernel; nearer, the decision would be chance, and with it the rounding

_of_process: Mode = "auto"
_of_block: ContextVar[Mode | None] = ContextVar("kernels", default=None)  # each GPU may run a network in its own thread
_log = logging.getLogger(__name__)


def kernels(mode: Mode) -> None:
    """Use Triton kernels where they can be (auto) or never (off), from now on in this process.

    `unchecked` is for counting on devices that compute nothing: kernels are not compared with their twins.
    """
    global _of_process
    _of_process = mode


@contextmanager
def kernel_mode(mode: Mode) -> Iterator[None]:
    """Set the mode within a block, for this thread."""
    before = _of_block.set(mode)
    try:
        yield
    finally:
        _of_block.reset(before)


def _mode() -> Mode:
    return _of_block.get() or _of_process


@cache
def has_triton() -> bool:
    """Whether Triton is installed; PyTorch brings it on Linux with CUDA or ROCm."""
    return importlib.util.find_spec("triton") is not None


def are_used(device: torch.device) -> bool:
    """Whether kernels are tried on a device, where they change results by rounding."""
    return _mode() != "off" and device.type == "cuda" and has_triton()


def are_tried(x: Tensor) -> bool:
    """Whether kernels are tried for a tensor, so that code may depend on them for its speed."""
    mode = _mode()
    return mode != "off" and not torch.is_grad_enabled() and _takes(x, mode)


class Checked(Generic[P, Result]):
    """A kernel and its twin, called alike.

    Args:
        kernel: computes on CUDA or ROCm; None for a memory layout that it does not take.
        twin: computes the same in plain PyTorch.
    """

    def __init__(self, kernel: Callable[P, Result | None], twin: Callable[P, Result]) -> None:
        update_wrapper(self, twin)
        self.kernel: Callable[P, Result | None] = kernel
        self.twin: Callable[P, Result] = twin
        self.trusted: dict[object, bool] = {}

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Result:
        """The kernel's result if it is trusted for these shapes and dtypes, else the twin's."""
        x = args[0]
        assert isinstance(x, Tensor)
        if not are_tried(x):
            return self.twin(*args, **kwargs)
        key = tuple(map(_kind, args))
        if _mode() == "auto" and key not in self.trusted:
            return self._trial(key, x, *args, **kwargs)
        result = self.kernel(*args, **kwargs) if self.trusted.get(key, True) else None
        return self.twin(*args, **kwargs) if result is None else result

    def _trial(self, key: object, x: Tensor, *args: P.args, **kwargs: P.kwargs) -> Result:
        """Compute both, and decide for this key; the result is the kernel's if it is trusted, as it will be later."""
        copied = self._copied(args)
        expected = self.twin(*args, **kwargs)
        try:
            result = self.kernel(*copied, **kwargs)
            worst = 0.0 if result is None else _difference(result, expected)
            slower = 0.0 if result is None else self._slower(copied)
        except Exception as error:  # noqa: BLE001  # a compiler's, of any kind
            if not is_out_of_memory(error):  # else the next call decides
                self._leave_out(key, x, f"it failed: {type(error).__name__}: {str(error)[:200]}")
            return expected
        if worst is None:
            return expected  # nothing is finite, and nothing decided
        if not worst <= 1:
            self._leave_out(key, x, f"it differs from PyTorch's result by {worst:.1e} of what roundings may")
        elif slower > _FASTER:
            self._leave_out(key, x, f"it takes {slower:.2f} of PyTorch's time", logging.INFO)
        else:
            self.trusted[key] = True
            return expected if result is None else self._taken(expected, result)
        return expected

    def _copied(self, args: Any) -> Any:
        """Arguments for a second computation."""
        return args

    def _taken(self, _expected: Result, result: Result) -> Result:
        """The kernel's result in the place of its twin's."""
        return result

    def _leave_out(self, key: object, x: Tensor, reason: str, level: int = logging.WARNING) -> None:
        self.trusted[key] = False
        shape, dtype = tuple(x.shape), str(x.dtype).removeprefix("torch.")
        _log.log(level, "the kernel for %s is not used for %s in %s: %s.", self.twin.__name__, shape, dtype, reason)

    def _slower(self, _args: Any) -> float:
        """Time of the kernel as a multiple of its twin's, where that is in doubt."""
        return 0.0


class CheckedInPlace(Checked[P, Result]):
    """A kernel and its twin that change their first argument, and return it."""

    def _copied(self, args: Any) -> Any:
        return args[0].clone(), *args[1:]

    def _taken(self, expected: Result, result: Result) -> Result:
        assert isinstance(expected, Tensor)
        assert isinstance(result, Tensor)
        return expected.copy_(result)


class CheckedAndTimed(Checked[P, Result]):
    """A kernel in place of a vendor's, which is used where it is faster as well."""

    def _slower(self, args: Any) -> float:
        kernel, twin = (_seconds(compute, args) for compute in (self.kernel, self.twin))
        return kernel / twin


def _seconds(compute: Callable[..., object], args: Any) -> float:
    """GPU time of a call, which has been compiled: the shortest of three."""
    times = []
    with torch.cuda.device(args[0].device):  # whose stream events record
        for _ in range(3):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            compute(*args)
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end))
    return min(times)


def with_kernel(kernel: Callable[P, Result | None]) -> Callable[[Callable[P, Result]], Checked[P, Result]]:
    """Decorator: the function is the kernel's twin, and runs wherever the kernel does not."""
    return lambda twin: Checked(kernel, twin)


def with_kernel_in_place(kernel: Callable[P, Result | None]) -> Callable[[Callable[P, Result]], Checked[P, Result]]:
    """Decorator of a kernel's twin, like `with_kernel`, where both change their first argument and return it."""
    return lambda twin: CheckedInPlace(kernel, twin)


def with_faster_kernel(kernel: Callable[P, Result | None]) -> Callable[[Callable[P, Result]], Checked[P, Result]]:
    """Decorator of a kernel's twin that a vendor's library computes: the kernel is used where it is faster as well."""
    return lambda twin: CheckedAndTimed(kernel, twin)


def _kind(value: object) -> object:
    return (value.dtype, value.shape, value.stride(), value.device.index) if isinstance(value, Tensor) else value


def _takes(x: Tensor, mode: Mode) -> bool:
    return x.is_cuda and x.dtype in _MAX_DIFFERENCE and (mode == "unchecked" or has_triton())


def _difference(result: Tensor | tuple[Tensor, ...], expected: Tensor | tuple[Tensor, ...]) -> float | None:
    """Largest relative difference, in units of what is allowed; infinite for another shape or dtype.

    None if nothing of the expected result is finite.
    """
    pairs = zip(*((each,) if isinstance(each, Tensor) else each for each in (result, expected)), strict=True)
    worst = [_relative(*pair) for pair in pairs]
    return None if None in worst else max(each for each in worst if each is not None)


def _relative(result: Tensor, expected: Tensor) -> float | None:
    """Relative difference of the worst slice along the longest axis, so that no tile of the tensor can be wrong."""
    if result.shape != expected.shape or result.dtype != expected.dtype:
        return math.inf
    axis = max(range(expected.ndim), key=lambda axis: expected.shape[axis])
    size = items_within(_COMPARED, expected.numel() / expected.shape[axis])
    others = [other for other in range(expected.ndim) if other != axis]
    differences: list[Tensor] = []
    norms: list[Tensor] = []
    for span in spans(expected.shape[axis], size):
        ours, wide = (each.narrow(axis, span.start, span.stop - span.start).float() for each in (result, expected))
        # NaN or Inf of both is the NaN check's to report, not the kernel's fault
        both = torch.where(torch.isfinite(wide), ours - wide, 0), torch.where(torch.isfinite(wide), wide, 0)
        for sums, each in zip((differences, norms), both, strict=True):
            sums.append(each.square().sum(others) if others else each.square())
    squares, norm = torch.cat(differences), torch.cat(norms)
    if not bool(norm.any()):
        if not bool(torch.isfinite(expected).all()):
            return None
        return math.inf if bool(squares.any()) else 0.0
    worst = (squares / torch.maximum(norm, norm.mean())).max()  # slices near zero are all rounding
    return math.sqrt(float(worst)) / _MAX_DIFFERENCE[expected.dtype]
