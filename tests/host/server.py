"""Start and stop an unmodified ComfyUI server that shares nothing with another one."""

import http.client
import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from .errors import HostError

FOLDERS = ("custom_nodes", "models", "input", "output", "temp", "user")
SETTINGS = {"Comfy.TutorialCompleted": True}  # else the first visit opens the templates over the graph
FAILED_IMPORT = re.compile(r"Cannot import .* module for custom nodes|\(IMPORT FAILED\)")


class Server:
    """A ComfyUI server process; use it as a context manager.

    Args:
        python: the interpreter of an environment that has ComfyUI's requirements.
        tree: the ComfyUI source tree to run.
        base: folder for its models, input, output, user data and custom nodes; kept afterwards.
        packs: node packs to link into its custom_nodes, by the name they get there.
        port: 0 chooses a free one.
        arguments: further ones for ComfyUI's main.py; the default runs on the CPU.
    """

    def __init__(
        self,
        python: Path,
        tree: Path,
        base: Path,
        *,
        packs: Mapping[str, Path] | None = None,
        port: int = 0,
        arguments: Sequence[str] = ("--cpu",),
    ) -> None:
        self.python, self.tree, self.base = python, tree, base.resolve()
        self.packs, self.arguments = dict(packs or {}), list(arguments)
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = self.base / "server.log"
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Server":
        if not self.is_running:
            self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, timeout: float = 300) -> None:
        """Return when the server answers; `timeout` is in seconds and generous, for busy machines."""
        for folder in FOLDERS:
            (self.base / folder).mkdir(parents=True, exist_ok=True)
        _write_settings(self.base / "user")
        for name, pack in self.packs.items():
            link_folder(self.base / "custom_nodes" / name, pack)
        with self.log.open("wb") as log:
            environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8", "NO_COLOR": "1"}
            self.process = subprocess.Popen(
                self._command(), cwd=self.tree, env=environment, stdout=log, stderr=subprocess.STDOUT
            )
        try:
            self._wait_for_answer(timeout)
        except BaseException:  # also Ctrl-C: the process must not outlive its starter
            self.stop()
            raise

    def stop(self) -> None:
        """End the process; harmless when it has ended already."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()  # not an interrupt signal: background jobs of a shell ignore that one
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def read_log(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def failed_imports(self) -> list[str]:
        """Lines of the log about linked packs that could not be imported; the server starts without them."""
        lines = self.read_log().splitlines()
        return [line.strip() for line in lines if FAILED_IMPORT.search(line) and "custom_nodes" in line]

    def _wait_for_answer(self, timeout: float) -> None:
        end = time.monotonic() + timeout
        while self.is_running and time.monotonic() < end:
            if _answers(self.port):
                return
            time.sleep(0.25)
        raise HostError(f"ComfyUI did not come up; the end of {self.log}:\n{self.read_log()[-4000:]}")

    def _command(self) -> list[str]:
        # the database would stay with the tree, and a second server could not lock it
        database = f"sqlite:///{(self.base / 'user' / 'comfyui.db').as_posix()}"
        command = [str(self.python), "main.py", "--port", str(self.port), "--disable-auto-launch"]
        return [*command, "--base-directory", str(self.base), "--database-url", database, *self.arguments]


def link_folder(link: Path, folder: Path) -> None:
    """Make `link` show `folder`: a symbolic link, on Windows a junction, which needs no administrator."""
    if not folder.is_dir():
        raise HostError(f"{folder} is to be linked to {link} but is not a folder")
    if link.exists() and link.resolve() == folder.resolve():
        return
    if link.is_symlink():
        link.unlink()
    elif link.exists():
        raise HostError(f"{link} is there already and is not a link to {folder}. Move it away.")
    if os.name == "nt":
        subprocess.run(["cmd", "/c", "mklink", "/J", str(link), str(folder)], check=True, capture_output=True)
    else:
        link.symlink_to(folder.resolve(), target_is_directory=True)


def _write_settings(user: Path) -> None:
    settings = user / "default" / "comfy.settings.json"
    if not settings.exists():
        settings.parent.mkdir(parents=True, exist_ok=True)
        settings.write_text(json.dumps(SETTINGS, indent=4), encoding="utf-8")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)  # no proxy, unlike urllib
    try:
        connection.request("GET", "/system_stats")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
