"""Faults at a few places each, as the command that writes the table puts them in at all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from exvideo_core.nn import out_of_memory
from faults import disk
from faults.no_memory import Attempts, NoMemory, Subject
from faults.outcomes import HARM, POISONED, SAID, SAME
from faults.registry import core_faults
from faults.run import BEGIN, END, PAGE, table

FAULTS = core_faults()
FEW = 211  # a stride that leaves the first place of most
MORE = {"a device that is too small": 9, "Cancel": 7, "disk full": 20, "process killed": 39, "ffmpeg killed": 12}
# What takes longest is left to the command.
LEFT_OUT = ("loading and casting", "small chunks", "step reuse", "two steps with guidance")
AGAIN = ("out of memory, twice in a row", "out of memory from there on")
QUICK = [
    fault
    for fault in FAULTS
    if not any(words in fault.where for words in LEFT_OUT)
    and (fault.name, fault.where) != ("a device that is too small", "CogVideoX, decoding")
    and (fault.name not in AGAIN or fault.where.endswith(("forward pass", "decoding")))
]
MOUNTED = ("disk full", "folder read-only")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("fault", QUICK, ids=lambda fault: f"{fault.name}, {fault.where}")
def test_no_fault_does_harm(fault):
    if fault.name in MOUNTED and not disk.can_make_disks():
        pytest.skip("only root on Linux may mount a small disk")
    if fault.name == "process killed" and os.name != "posix":
        pytest.skip("SIGKILL is POSIX's")
    count = fault.inject(MORE.get(fault.name, FEW))

    assert count.injections
    assert not count.harm, count.examples


@pytest.mark.comfyui
def test_no_fault_does_harm_in_comfyui():
    command = [
        sys.executable,
        str(Path(__file__).with_name("run.py")),
        "--only",
        "comfyui",
        "--every",
        "900",
        "--named",
        "once",
    ]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    assert run.returncode == 0, run.stdout + run.stderr[-2000:]
    assert "ComfyUI, SVD sampling" in run.stdout


def test_a_model_that_stays_changed_is_counted_as_poisoned():
    layer = torch.nn.Linear(3, 3)

    def work():
        with torch.no_grad():
            layer.weight.add_(1)
            result = layer(torch.ones(1, 3))
            layer.weight.sub_(1)  # not reached where the line before fails
        return [result]

    attempts = Attempts(Subject("a layer", work, (layer,)))
    attempts.attempt(NoMemory(1))

    assert attempts.count.harm[POISONED] == 1


def test_what_memory_ends_in_is_tried_again_in_smaller_pieces():
    network, tried = torch.nn.Module(), []
    network.chunk_bytes = 4 * out_of_memory.SMALLEST_CHUNK

    def compute():
        tried.append(network.chunk_bytes)
        if len(tried) < 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.ones(1)

    with out_of_memory.restore_chunk_bytes(network):
        assert out_of_memory.retry_with_smaller_chunks(network, compute) == 1
    assert tried == [4 * out_of_memory.SMALLEST_CHUNK, 2 * out_of_memory.SMALLEST_CHUNK]
    assert network.chunk_bytes == tried[0]


@pytest.mark.parametrize("text", ["CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "DefaultCPUAllocator: not "
                                  "enough memory: you tried to allocate 1 bytes"])  # fmt: skip
def test_memory_that_ends_is_known_by_its_words_too(text):
    assert out_of_memory.is_out_of_memory(RuntimeError(text))
    assert not out_of_memory.is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_the_page_has_the_table_of_all_faults_without_harm():
    page = PAGE.read_text(encoding="utf-8")
    rows = [
        line.split(" | ") for line in page[page.index(BEGIN) : page.index(END)].splitlines() if line.startswith("|")
    ]

    for fault in FAULTS:
        assert any(row[0] == f"| {fault.name}" and row[1] == fault.where for row in rows), "run tests/faults/run.py"
    for row in rows[2:]:
        assert [cell.strip(" |") for cell in row[4:]] == ["0"] * len(HARM), row


def test_the_table_sums_up():
    counts = [QUICK[0].inject(FEW) for _ in range(2)]
    *_, total = table([(QUICK[0], count) for count in counts]).splitlines()

    assert f"| {sum(count.injections for count in counts)} |" in total
    assert set(counts[0].ends) <= {SAME, SAID}
