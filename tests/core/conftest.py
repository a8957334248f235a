"""Fixtures of the tests of saved runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from exvideo_core.runtime import resume as saved_run
from exvideo_core.runtime.resume import SavedRun


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def saved(tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch) -> SavedRun:
    """Saves every step."""
    monkeypatch.setattr(saved_run, "_SHARE", 1e9)
    return SavedRun(tmp_path / "run.unfinished", interval=0, tell=said.append)
