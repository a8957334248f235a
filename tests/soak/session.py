"""One server that gets many prompts, looked at from outside after each of them."""

import json
import os
import time
from contextlib import suppress
from pathlib import Path

import psutil

from host.client import Client, RequestError
from host.errors import HostError
from host.server import Server
from host.websocket import TEXT, WebSocket

ALIVE = "/soak/alive"
OBSERVER = {"soak_observer": Path(__file__).with_name("observer")}
_PATIENCE = 300  # seconds for a prompt
_FOLDERS = ("output", "temp", "user")


class Session:
    """A running server; each call of `do` sends a job and returns what the server looks like afterwards."""

    def __init__(self, server: Server) -> None:
        self.server, self.client = server, Client(server.url)
        self.process = psutil.Process(server.process.pid)

    def do(self, job):
        start = time.monotonic()
        outcome, error = self._send(job)
        seconds = time.monotonic() - start
        return {"what": job.what, "expected": job.expected, "outcome": outcome, "error": error, "seconds": seconds}

    def look(self):
        """Memory in bytes, threads, open files and children, once those that are about to end have ended."""
        end = time.monotonic() + 5
        while self.process.children() and time.monotonic() < end:
            time.sleep(0.1)
        full = self.process.memory_full_info()
        files = self.process.num_fds() if hasattr(self.process, "num_fds") else self.process.num_handles()
        folders = {name: _content(self.server.base / name) for name in _FOLDERS}
        return {
            "rss": full.rss,
            "uss": full.uss,
            "threads": self.process.num_threads(),
            "files": files,
            "children": len(self.process.children(recursive=True)),
            "log": self.server.log.stat().st_size,
            "folders": folders,
        }

    def alive(self, *, trim=False):
        """What the server's own Python knows, after a collection of garbage; free memory can be given back first."""
        return self.client.get(f"{ALIVE}?trim" if trim else ALIVE)

    def _send(self, job):
        name = f"soak{time.monotonic_ns()}"
        socket = WebSocket("127.0.0.1", self.server.port, f"/ws?clientId={name}")
        try:
            prompt_id = self.client.post("/prompt", {"prompt": job.prompt, "client_id": name})["prompt_id"]
            if job.cancel or job.is_left:
                self._meddle(job, socket, prompt_id)
        except RequestError as error:
            return "refused", self._quoted(error)
        finally:
            socket.close()
        run = self.client.wait(prompt_id, timeout=_PATIENCE)
        return run.status, self._quoted(run.error)

    def _quoted(self, error):
        """The beginning, without the folder that this session happened to have."""
        return str(error).replace(str(self.server.base), "")[:200]

    def _meddle(self, job, socket, prompt_id):
        """Press Cancel at the job's moment, or go away as soon as the sampler has begun."""
        kind, delay = job.cancel or ("ExVideoSampler", 0.1)
        nodes = {name for name, node in job.prompt.items() if node["class_type"] == kind}
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            message = socket.read(timeout=0.5)
            event = json.loads(message.payload) if message and message.opcode == TEXT else {}
            if event.get("type") == "executing" and event["data"].get("node") in nodes:
                time.sleep(delay)
                if job.cancel:
                    self.client.post("/interrupt", {})
                return
            if self.client.history(prompt_id) is not None:
                return
        raise HostError(f"{job.what}: {kind} did not begin")


def _content(folder):
    """Number of files and their bytes."""
    count = size = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # gone meanwhile
                size += os.path.getsize(os.path.join(root, name))
                count += 1
    return {"files": count, "bytes": size}
