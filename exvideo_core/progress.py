"""The progress callback of long operations."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]  # items done, items in total; may raise to stop the work
