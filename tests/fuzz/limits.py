"""How long a reading may take, and what memory it may fill."""

import resource
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

_PEAK = Path("/proc/self/clear_refs")


@contextmanager
def limited(seconds=2.0, megabytes=300):
    """Fail if the block computes for longer, or needs more memory than there was in use before.

    Seconds are the processor's, of this process and of those it has waited for, so that a busy machine does not count;
    a block that waits for ever is ended after twenty times as long.
    """
    hanging = signal.signal(signal.SIGALRM, _hang)
    signal.setitimer(signal.ITIMER_REAL, 20 * seconds)
    before, start = _peak(reset=True), _computed()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, hanging)
    took, grown = _computed() - start, _peak() - before
    assert took < seconds, f"it took {took:.1f} seconds"
    assert grown < megabytes, f"it took {grown:.0f} MB"


def _hang(*_):
    pytest.fail("it waits for ever")


def _computed():
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _peak(*, reset=False):
    """Most memory in use since the reset, in MB; 0 where the system does not say."""
    if not sys.platform.startswith("linux"):
        return 0.0
    if reset:
        _PEAK.write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
