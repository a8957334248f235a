"""Write the lock files: every package of the environment, at one version, with the hashes of all its published files.

    .venv/bin/python tests/host/lock.py

Run it after a change of a requirements*.txt, and commit what it writes. It asks the Python package index for versions
and hashes, for all systems and every Python from 3.10 on, and changes no version that still fits.
"""

import argparse
import hashlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
# What each lock is made of. A lock holds nothing of those before it, which are installed before it.
INPUTS = {
    "requirements.lock": ("requirements.txt",),
    "requirements-cuda.lock": ("requirements.txt",),
    "requirements-test.lock": ("requirements-test.txt", "requirements-alone.txt"),
    "requirements-built.lock": ("requirements-built.txt",),
}
CUDA = re.compile(r"(nvidia-.+|cuda-.+|triton)==")  # what torch's Linux build of the package index brings along
_HASH = re.compile(r"--hash=(sha256:[0-9a-f]{64})")
# entries by their first line: name, version and marker
Lock = dict[str, list[str]]


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    old = [line for name in INPUTS if (HERE / name).exists() for line in read_lock(HERE / name)]
    together = compiled(["requirements.txt", "requirements-test.txt"], old)
    server = compiled(["requirements.txt"], together)
    alone = compiled(["requirements-alone.txt"], old, "--no-deps")
    locks = {
        "requirements.lock": {line: hashes for line, hashes in server.items() if not CUDA.match(line)},
        "requirements-cuda.lock": {line: hashes for line, hashes in server.items() if CUDA.match(line)},
        "requirements-test.lock": {line: hashes for line, hashes in together.items() if line not in server} | alone,
        "requirements-built.lock": compiled(["requirements-built.txt"], old, "--no-deps"),
    }
    for name, lock in locks.items():
        head = f"# Written by tests/host/lock.py.\n# made of: {fingerprint(name)}\n"
        (HERE / name).write_text(head + render(lock), encoding="utf-8")
        print(f"{name}: {len(lock)} packages, {sum(map(len, lock.values()))} hashes")


def compiled(inputs: Sequence[str], old: Iterable[str], *options: str) -> Lock:
    """All that these files need, at the old versions where those fit; hashes are always the index's."""
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "lock"
        output.write_text("\n".join(old), encoding="utf-8")
        command = [sys.executable, "-m", "uv", "pip", "compile", "--universal", "--python-version", "3.10"]
        command += ["--generate-hashes", "--no-header", "--no-annotate", "--quiet", "--output-file", str(output)]
        subprocess.run([*command, *options, *inputs], cwd=HERE, check=True, stdout=subprocess.DEVNULL)
        return read_lock(output)


def read_lock(path: Path) -> Lock:
    """The entries of a file of requirements with hashes."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return {line.partition(" --hash=")[0].strip(): _HASH.findall(line) for line in lines}


def render(lock: Lock) -> str:
    return "".join(" \\\n    ".join([line, *(f"--hash={each}" for each in lock[line])]) + "\n" for line in sorted(lock))


def fingerprint(name: str) -> str:
    """Of what a lock is made of; stands in it, so that a test sees a lock that is out of date."""
    text = "".join((HERE / each).read_text(encoding="utf-8") for each in INPUTS[name])
    return hashlib.sha256(text.encode()).hexdigest()


if __name__ == "__main__":
    main()
