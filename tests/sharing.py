"""Which process runs which tests: files that ask for the same costly thing share it."""

import re
from functools import cache
from pathlib import Path

from xdist.scheduler import LoadFileScheduling

ROOT = Path(__file__).resolve().parents[1]
# What takes seconds to start or import, by the words in a test file or its path that ask for it. The first that fits counts.
SHARED = {
    "a server": r"\b(oldest_)?comfyui\b(?=[,):\]\"])",
    "ComfyUI's modules": r"^tests/nodes/",
    "DiffSynth and diffusers": r"^tests/parity/|mark\.parity",
    "a process that has imported PyTorch": r"\b(training_runs|cogvideox_processes)\b",
}


@cache
def sharing(file: str) -> str:
    """What a file's tests share with those of other files; its own name if nothing."""
    text = f"{file}\n{(ROOT / file).read_text(encoding='utf-8')}"
    return next((name for name, words in SHARED.items() if re.search(words, text)), file)


class Sharing(LoadFileScheduling):
    """Hands out whole files as pytest-xdist's does, and together those that share something."""

    def _split_scope(self, nodeid: str) -> str:
        return sharing(nodeid.partition("::")[0])
