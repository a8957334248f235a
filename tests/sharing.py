"""Which process runs which tests: files that need the same expensive thing run in one process, one after the other."""

import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# What takes seconds to start or import, and a pattern for the files that need it: their path, or a line of theirs.
# The first match counts. The longest come first, so that no process is left alone with them at the end.
SHARED = {
    "ComfyUI servers": r"mark\.comfyui",
    "ComfyUI's modules": r"^tests/nodes/",
    "training processes": r"^(from|import) (training_runs|cogvideox_processes)",
    "DiffSynth and diffusers": r"^tests/parity/|mark\.parity",
}


@cache
def group(file: str) -> str:
    """What a test file shares with others; its own name if nothing."""
    text = f"{file}\n{(ROOT / file).read_text(encoding='utf-8')}"
    return next((name for name, pattern in SHARED.items() if re.search(pattern, text, re.MULTILINE)), file)


def position(file: str) -> int:
    """A file's place in the order of the groups; files that share nothing come last."""
    return [*SHARED, group(file)].index(group(file))


def scheduler(config, log):
    """pytest-xdist's distribution of whole files, with groups of files in place of files."""
    from xdist.scheduler import LoadFileScheduling

    class GroupScheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid.partition("::")[0])

    return GroupScheduling(config, log)
