"""Triton kernels without a GPU: their numbers in Triton's interpreter, and that every architecture can run them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="there is none for this system")

ROOT = Path(__file__).resolve().parents[4]
# bytes of shared memory that a block may have, by compute capability
SHARED = {75: 65536, 80: 166912, 86: 101376, 89: 101376, 90: 232448, 120: 101376}
KERNELS = {path.stem for path in (ROOT / "exvideo_core/nn/kernels").glob("[!_]*.py")} - {"checked", "operators"}
# of the rounding of float32 sums, and of one rounding to 16 bits
BOUNDS = {"torch.float32": 3e-6, "torch.float16": 4e-4, "torch.bfloat16": 4e-3}


def lines_of(script: str) -> list[dict]:
    command = [sys.executable, Path(__file__).with_name(script)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.full
def test_numbers_are_as_close_to_float64_as_the_twins():
    lines = lines_of("interpreted.py")

    assert {line["kernel"] for line in lines} == KERNELS
    for line in lines:
        bound = next((BOUNDS[dtype] for dtype in BOUNDS if dtype in line["case"]), BOUNDS["torch.float32"])
        if line["kernel"] in ("channel_statistics", "group_scale"):  # which compute in float32 whatever they read
            bound = BOUNDS["torch.float32"]
        assert line["kernel_error"] <= max(bound, 2 * line["twin_error"]), line


@pytest.mark.full
def test_every_architecture_gets_code_without_spills():
    lines = lines_of("compiled.py")

    assert {line["capability"] for line in lines} == {75, 80, 86, 89, 90, 120}
    for line in lines:
        assert line["STACK"] == line["LOCAL"] == 0, line
        assert line["REG"] <= (255 if line["kernel"] == "_gated_product" else 128), line
        assert line["shared"] <= SHARED[line["capability"]], line
        assert line["is_wide"] or line["kernel"] in ("_items", "_group_scale"), line  # 16 bytes a load
