"""Wait for the network in a thread, so that Cancel works at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from queue import Empty, Queue
from typing import TypeVar

Item = TypeVar("Item")
# Called often while anything is waited for; cancels by raising.
Tick = Callable[[], None]

_POLL = 0.2  # seconds between two ticks


class _Ended(Exception):  # noqa: N818  nothing went wrong
    """There are no more items."""


def call_in_thread(call: Callable[[], Item], tick: Tick) -> Item:
    """The result of a function that may block; it runs in its own thread, and `tick` is called meanwhile."""
    return next(iterate_in_thread(lambda: iter((call(),)), tick))


def iterate_in_thread(source: Callable[[], Iterator[Item]], tick: Tick) -> Iterator[Item]:
    """Yield the items of an iterator that may block; like `call_in_thread`."""
    entries: Queue[Item | Exception] = Queue(maxsize=64)
    is_left = threading.Event()

    def feed() -> None:
        for entry in _with_end(source):
            if is_left.is_set():
                return
            entries.put(entry)

    # daemon: a silent connection must not keep a cancelled command from ending
    threading.Thread(target=feed, name="exvideo-download", daemon=True).start()
    try:
        while True:
            tick()
            try:
                entry = entries.get(timeout=_POLL)
            except Empty:
                continue
            if isinstance(entry, _Ended):
                return
            if isinstance(entry, Exception):
                raise entry
            yield entry
    finally:
        is_left.set()
        with suppress(Empty):
            entries.get_nowait()  # makes room for the one entry that the thread may be about to put


def _with_end(source: Callable[[], Iterator[Item]]) -> Iterator[Item | Exception]:
    """The items, and then the error that ended them, or `_Ended`."""
    end: Exception = _Ended()
    try:
        yield from source()
    except Exception as error:  # noqa: BLE001 (raised again where the items are taken)
        end = error
    yield end


def pause(seconds: float, tick: Tick) -> None:
    """Wait, and let `tick` cancel."""
    end = time.monotonic() + seconds
    while (rest := end - time.monotonic()) > 0:
        tick()
        time.sleep(min(rest, _POLL))
