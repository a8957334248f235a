"""CUDA's streams and events as vector clocks, and races between them.

A stream counts its kernels, and knows of each other stream up to which kernel it comes after. An access to memory that
does not come after a conflicting one of another stream is a race, whatever the order on the host was.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count

import torch

Clock = dict[int, int]  # stream to the number of its kernels that are done by then
HOST = -1  # in place of a stream: the program itself


def merge(clock: Clock, other: Mapping[int, int]) -> None:
    """Come after everything that another clock comes after."""
    for stream, kernels in other.items():
        if clock.get(stream, 0) < kernels:
            clock[stream] = kernels


class Stream:
    """`torch.cuda.Stream`."""

    def __init__(self, streams: Streams, device: torch.device | str | int | None = None, **_priority: int) -> None:
        self.streams, self.device, self.id = streams, streams.device_of(device), next(streams.ids)
        self.clock: Clock = {self.id: 0}

    def launch(self) -> None:
        """Queue a kernel: it comes after all that the program has waited for."""
        merge(self.clock, self.streams.host)
        self.clock[self.id] += 1

    def wait_event(self, event: Event) -> None:
        merge(self.clock, event.clock)

    def wait_stream(self, other: Stream) -> None:
        merge(self.clock, other.clock)

    def record_event(self, event: Event | None = None) -> Event:
        event = event or Event(self.streams)
        event.record(self)
        return event

    def synchronize(self) -> None:
        merge(self.streams.host, self.clock)


class Event:
    """`torch.cuda.Event`."""

    def __init__(self, streams: Streams, **_flags: bool) -> None:
        self.streams = streams
        self.clock: Clock = {}

    def record(self, stream: Stream | None = None) -> None:
        self.clock = dict((stream or self.streams.current()).clock)

    def wait(self, stream: Stream | None = None) -> None:
        merge((stream or self.streams.current()).clock, self.clock)

    def synchronize(self) -> None:
        merge(self.streams.host, self.clock)


class Streams:
    """All streams of a program, and the current device and stream."""

    def __init__(self) -> None:
        self.ids = count()
        self.host: Clock = {}
        self.current_index = 0
        self._defaults: dict[int, Stream] = {}
        self._entered = threading.local()

    def device_of(self, device: torch.device | str | int | None) -> torch.device:
        """The device with its index; None is the current one."""
        if isinstance(device, int):
            return torch.device("cuda", device)
        index = None if device is None else torch.device(device).index
        return torch.device("cuda", self.current_index if index is None else index)

    def current(self, device: torch.device | str | int | None = None) -> Stream:
        """`torch.cuda.current_stream`."""
        where = self.device_of(device)
        for stream in reversed(getattr(self._entered, "streams", [])):
            if stream.device == where:
                return stream
        if where.index not in self._defaults:
            self._defaults[where.index] = Stream(self, where)
        return self._defaults[where.index]

    @contextmanager
    def entering(self, stream: Stream) -> Iterator[None]:
        """`torch.cuda.stream`."""
        before = getattr(self._entered, "streams", [])
        self._entered.streams = [*before, stream]
        try:
            yield
        finally:
            self._entered.streams = before

    @contextmanager
    def on_device(self, device: torch.device | str | int | None) -> Iterator[None]:
        """`torch.cuda.device`."""
        before, self.current_index = self.current_index, self.device_of(device).index
        try:
            yield
        finally:
            self.current_index = before


class Uses:
    """Who has read and written some memory, and who may still do so.

    Attributes:
        owner: the stream it was allocated on; None for memory of the host.
        what: the operation that allocated it.
        recorded: streams that `Tensor.record_stream` named to the allocator.
    """

    __slots__ = ("owner", "reads", "recorded", "what", "write")

    def __init__(self, owner: Stream | None, what: str) -> None:
        self.owner, self.what = owner, what
        self.write: tuple[int, int] | None = None
        self.reads: Clock = {}
        self.recorded: set[int] = set()


class Races:
    """Races seen, in words, with how often."""

    def __init__(self, streams: Streams) -> None:
        self.streams = streams
        self.seen: Counter[str] = Counter()

    def access(self, uses: Uses, stream: Stream | None, *, is_write: bool, what: str) -> None:
        """Note an access by a stream's last kernel, or by the program itself."""
        clock, me = (stream.clock, stream.id) if stream else (self.streams.host, HOST)
        now = clock[me] if stream else 0
        before = list(uses.reads.items()) if is_write else []
        if uses.write:
            before.append(uses.write)
        for other, when in before:
            if other not in (me, HOST) and clock.get(other, 0) < when:
                self.seen[f"{what} on {_name(me)} does not come after its use on {_name(other)}"] += 1
        if is_write:
            uses.write, uses.reads = (me, now), {}
        else:
            uses.reads[me] = now

    def given_back(self, uses: Uses) -> None:
        """Note that memory goes back to its stream, which may use it again at once."""
        if uses.owner is None:
            return
        last = dict(uses.reads)
        if uses.write:
            merge(last, dict([uses.write]))
        for other, when in last.items():
            is_safe = other in (HOST, uses.owner.id) or other in uses.recorded
            if not is_safe and uses.owner.clock.get(other, 0) < when:
                self.seen[f"memory of {uses.what} was given back while {_name(other)} may use it"] += 1


def _name(stream: int) -> str:
    return "the host" if stream == HOST else f"stream {stream}"
