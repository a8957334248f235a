"""Look for files that a reader does not withstand, and print what was found in a table.

    python tests/fuzz/run.py                                  all readers, a minute each
    python tests/fuzz/run.py weights lora --seconds 600       some of them, for longer
    python tests/fuzz/run.py --runs 1000000 --seconds 600     whichever comes first

Needs atheris (Linux, Python 3.11 to 3.13). What breaks a reader is written to output/fuzz; put it, under a telling
name, into tests/fuzz/corpus, where test_corpus.py reads it for ever after.
"""

import argparse
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("weights", "lora", "folders", "configs", "records", "pictures", "videos", "training_videos")
LIMITS = ("-timeout=10", "-rss_limit_mb=2048")  # seconds of one execution, and memory of the process with PyTorch in it
_START = "import subprocess, sys; sys.exit(subprocess.run(sys.argv[1:]).returncode)"
_LONGEST = {"weights": 200_000}  # bytes of an input; else 20,000


@dataclass(frozen=True)
class Result:
    """What a fuzzer did.

    Attributes:
        edges: branches in the readers' Python that some input has taken.
        finding: what ended it before its time, for people; empty where nothing did.
    """

    reader: str
    executions: int
    seconds: float
    edges: int
    megabytes: int
    finding: str


def is_possible():
    """Whether there is the package."""
    return importlib.util.find_spec("atheris") is not None


def fuzz(reader, seconds, runs=-1, kept=ROOT / "output" / "fuzz"):
    """Run one reader's fuzzer in a process of its own; what breaks the reader is kept in a folder."""
    kept.mkdir(parents=True, exist_ok=True)
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as corpus:
        options = [f"-max_total_time={seconds}", f"-runs={runs}", f"-max_len={_LONGEST.get(reader, 20_000)}", *LIMITS]
        options += [f"-artifact_prefix={kept}/{reader}-", "-print_final_stats=1"]
        # by a small process: on Linux a program begins with its starter's peak of memory, which counts as its own
        command = [sys.executable, "-c", _START, sys.executable, "-m", "fuzz.process", reader, corpus, *options]
        start = time.monotonic()
        ended = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=seconds + 300
        )
    text = ended.stdout.decode(errors="replace")
    return Result(
        reader=reader,
        executions=_number(r"stat::number_of_executed_units: *(\d+)", text),
        seconds=time.monotonic() - start,
        edges=_number(r"cov: (\d+)", text),
        megabytes=_number(r"stat::peak_rss_mb: *(\d+)", text),
        finding="" if ended.returncode == 0 else f"exit status {ended.returncode}\n{_told(text)}",
    )


def _number(pattern, text):
    """The last one."""
    return int((re.findall(pattern, text) or ["0"])[-1])


def _told(text):
    """The end of what libFuzzer said, without what it says of every run."""
    lines = [line for line in text.splitlines() if not re.match(r"#\d+\s|INFO|WARNING|0x|stat::", line)]
    return "\n".join(line[:300] for line in lines[-30:])


def table(results):
    """In Markdown."""
    rows = [("reader", "executions", "a second", "branches", "memory", "findings"), ("---", *["---:"] * 5)]
    for r in results:
        rate = f"{r.executions / max(r.seconds, 1):,.0f}"
        found = str(int(bool(r.finding)))
        rows.append((r.reader, f"{r.executions:,}", rate, f"{r.edges:,}", f"{r.megabytes:,} MB", found))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("readers", nargs="*", metavar="READER", help=f"of {', '.join(NAMES)} (default: all)")
    parser.add_argument("--seconds", type=int, default=60, help="for each reader (%(default)s)")
    parser.add_argument("--runs", type=int, default=-1, help="executions of each, if they end before (default: any)")
    arguments = parser.parse_args()
    if unknown := set(arguments.readers) - set(NAMES):
        parser.error(f"there is no reader {', '.join(sorted(unknown))}")
    if not is_possible():
        print("atheris is not installed: pip install -r tests/host/requirements-test.txt, on Linux", file=sys.stderr)
        return 2
    results = []
    for name in arguments.readers or NAMES:
        results.append(fuzz(name, arguments.seconds, arguments.runs))
        print(table(results[-1:]).splitlines()[-1], results[-1].finding, sep="\n", flush=True)
    print(f"\n{table(results)}")
    return int(any(result.finding for result in results))


if __name__ == "__main__":
    sys.exit(main())
