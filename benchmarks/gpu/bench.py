"""What every section needs: the device, its dtypes, random tensors, one network at a time, and the record."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, TypeVar

import torch
from torch import Tensor

from benchmarks import memory
from benchmarks.gpu.record import Record

Network = TypeVar("Network")
T = TypeVar("T")


class Bench:
    """A device to measure, and where results go.

    Args:
        device: "cuda", or "cpu" to try the sections.
        is_narrow: whether networks and sizes are small.
    """

    def __init__(self, device: str, record: Record, *, is_narrow: bool = False) -> None:
        self.device, self.record, self.is_narrow = torch.device(device), record, is_narrow
        self.on_gpu = self.device.type == "cuda"
        # dtypes that the models were published in; a CPU has no fast products in them
        self.half = torch.float16 if self.on_gpu else torch.float32  # SVD
        self.brain = torch.bfloat16 if self.on_gpu else torch.float32  # CogVideoX
        self.failed_checks = 0
        self._build: Callable[[Bench], Any] | None = None
        self._network: Any = None

    def size(self, published: T, narrow: T) -> T:
        """A size, or the one for narrow networks."""
        return narrow if self.is_narrow else published

    def network(self, build: Callable[[Bench], Network]) -> Network:
        """The network of a builder, kept until another is asked for."""
        if self._build is not build:
            self.drop()
            self._network, self._build = build(self), build
        return self._network

    def drop(self) -> None:
        """Free the network, as where a section has changed it."""
        self._network = self._build = None
        self.free()

    def free(self) -> None:
        """Free what nothing refers to, and the allocator's cache."""
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()

    def wait(self) -> None:
        """Wait until the device has finished all queued work."""
        memory.wait(self.device.type)

    def random(self, *shape: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
        """Unit noise, drawn on the device: main memory would take seconds for the largest."""
        generator = torch.Generator(self.device).manual_seed(seed)
        return torch.randn(shape, generator=generator, device=self.device, dtype=dtype)

    def check(self, name: str, ours: Tensor, reference: Tensor, limit: float, **values: object) -> None:
        """Record the relative error of a result and whether it is within a limit; a limit of 0 asks for equal bits."""
        error = relative_error(ours, reference)
        holds = torch.equal(ours, reference) if limit == 0 else error <= limit  # False for NaN
        self.check_that(name, holds, error=error, limit=limit, **values)

    def check_that(self, name: str, holds: bool, **values: object) -> None:
        """Record whether something holds."""
        self.failed_checks += not holds
        self.record.put(name, holds=holds, **values)


def relative_error(ours: Tensor, reference: Tensor) -> float:
    """Norm of the difference over the norm of the reference."""
    wide = reference.to(ours.device, torch.float32)
    difference = torch.linalg.vector_norm(ours.float() - wide)
    return float(difference / torch.linalg.vector_norm(wide))


def name_of(dtype: torch.dtype) -> str:
    """As in a row: float16."""
    return str(dtype).removeprefix("torch.")


def is_installed(package: str) -> bool:
    """Whether a package can be imported; some references are in `sys.modules` without a spec."""
    if package in sys.modules:
        return sys.modules[package] is not None
    return find_spec(package) is not None


@contextmanager
def exact_float32() -> Iterator[None]:
    """Let float32 be float32 in a block: cuDNN's convolutions are TF32 by default."""
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = False
    try:
        yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed


@contextmanager
def chunks_of(chunk_bytes: int, *networks: Any) -> Iterator[None]:
    """Let networks compute in chunks of so many bytes within a block."""
    before = [network.chunk_bytes for network in networks]
    for network in networks:
        network.chunk_bytes = chunk_bytes
    try:
        yield
    finally:
        for network, given in zip(networks, before, strict=True):
            network.chunk_bytes = given
