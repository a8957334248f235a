"""Wait for the network in a thread, so that Cancel works at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from queue import Empty, Full, Queue
from typing import Generic, TypeVar

Item = TypeVar("Item")
# Called often while anything is waited for; cancels by raising.
Tick = Callable[[], None]

_POLL = 0.2  # seconds between two ticks


def in_thread(source: Callable[[], Iterator[Item]], tick: Tick) -> Iterator[Item]:
    """Yield the items of an iterator that may block; it runs in its own thread, and `tick` is called meanwhile."""
    channel = _Channel(source)
    # daemon: a silent connection must not keep a cancelled command from ending
    threading.Thread(target=channel.run, name="exvideo-download", daemon=True).start()
    try:
        while True:
            tick()
            try:
                entry = channel.entries.get(timeout=_POLL)
            except Empty:
                continue
            if isinstance(entry, _End):
                if entry.error is not None:
                    raise entry.error
                return
            yield entry
    finally:
        channel.is_left.set()


class _End:
    def __init__(self, error: Exception | None = None) -> None:
        self.error = error


class _Channel(Generic[Item]):
    """A queue from the thread that reads to the one that writes."""

    def __init__(self, source: Callable[[], Iterator[Item]]) -> None:
        self.source = source
        self.entries: Queue[Item | _End] = Queue(maxsize=64)
        self.is_left = threading.Event()

    def run(self) -> None:
        end = _End()
        try:
            for item in self.source():
                if not self._put(item):
                    return
        except Exception as error:  # noqa: BLE001 (raised again where the items are taken)
            end = _End(error)
        self._put(end)

    def _put(self, entry: Item | _End) -> bool:
        while not self.is_left.is_set():
            try:
                self.entries.put(entry, timeout=_POLL)
            except Full:
                continue
            return True
        return False


def pause(seconds: float, tick: Tick) -> None:
    """Wait, and let `tick` cancel."""
    end = time.monotonic() + seconds
    while (rest := end - time.monotonic()) > 0:
        tick()
        time.sleep(min(rest, _POLL))
