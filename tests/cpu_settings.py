"""Run the tests that compare numbers as several kinds of CPU would compute, and print a line for each.

    .venv/bin/python tests/cpu_settings.py                              every setting, about a quarter of an hour each
    .venv/bin/python tests/cpu_settings.py --only avx512 tests/core -k unet     the rest goes to pytest

MKL, oneDNN and PyTorch choose kernels by what the CPU can do; the environment variables below make them choose as on a
lesser one. On a CPU that is not Intel's, MKL does not use its kernels for Intel's: on Linux, with a C compiler, it is
told that this is one.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CPUS = Path("/proc/cpuinfo")
ROOT = Path(__file__).resolve().parents[1]
SETTINGS = {
    "avx512": {"MKL_ENABLE_INSTRUCTIONS": "AVX512", "ATEN_CPU_CAPABILITY": "avx512", "OMP_NUM_THREADS": "1"},
    "avx2": {
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "OMP_NUM_THREADS": "2",
    },
    "sse": {
        "MKL_CBWR": "COMPATIBLE",
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "OMP_NUM_THREADS": "1",
    },
    "mixed": {
        "MKL_ENABLE_INSTRUCTIONS": "AVX512",
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "OMP_NUM_THREADS": "2",
    },
}
COMPARES = re.compile(r"assert_close|allclose|torch\.equal|array_equal|relative|tolerance|rounding|\b(abs|error)\(")
LEFT_OUT = "not slow and not network and not browser"
INTEL = "int mkl_serv_intel_cpu_true(void) { return 1; }\nint mkl_serv_intel_cpu(void) { return 1; }\n"


def numeric_files() -> list[str]:
    """Test files that compare results."""
    folders = (ROOT / "tests" / name for name in ("core", "nodes", "parity"))
    files = sorted(file for folder in folders for file in folder.rglob("test_*.py"))
    return [str(file.relative_to(ROOT)) for file in files if COMPARES.search(file.read_text(encoding="utf-8"))]


def as_intel(folder: Path) -> dict[str, str]:
    """What lets MKL take the kernels it has for Intel's CPUs; nothing where that is the case already."""
    compiler = shutil.which("cc")
    if not CPUS.exists() or "GenuineIntel" in CPUS.read_text(encoding="utf-8"):
        return {}
    if compiler is None:
        print("no C compiler: MKL takes the same kernels under every setting but sse")
        return {}
    source, library = folder / "intel.c", folder / "intel.so"
    source.write_text(INTEL, encoding="utf-8")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    return {"LD_PRELOAD": str(library)}


def run(name: str, environment: dict[str, str], arguments: list[str]) -> bool:
    """Print how the tests went under one setting."""
    start = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", "-m", LEFT_OUT, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)
    summary = done.stdout.strip().rpartition("\n")[2]
    print(f"{name:8} {summary} ({time.monotonic() - start:.0f} s; {' '.join(map('='.join, SETTINGS[name].items()))})")
    if done.returncode:
        print(done.stdout, done.stderr)
    return done.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=SETTINGS, help="one setting")
    options, arguments = parser.parse_known_args()
    if not any(argument.startswith("tests") for argument in arguments):
        arguments = [*numeric_files(), *arguments]
    names = [options.only] if options.only else list(SETTINGS)
    if CPUS.exists() and "avx512f" not in CPUS.read_text(encoding="utf-8"):
        print("this CPU has no AVX-512: avx512 is left out, and mixed is with AVX2")
        names = [name for name in names if name != "avx512"]
    # two threads that wait for a core should sleep
    common = {"OMP_WAIT_POLICY": "PASSIVE"}
    with tempfile.TemporaryDirectory() as folder:
        common |= as_intel(Path(folder))
        passed = [run(name, common | SETTINGS[name], arguments) for name in names]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
