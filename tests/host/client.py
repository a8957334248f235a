"""Talk to a ComfyUI server as a client program does: queue a prompt, follow it, fetch what it made."""

import http.client
import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from .errors import HostError
from .websocket import TEXT, WebSocket

Prompt = dict[str, dict[str, Any]]  # node id -> {"class_type": ..., "inputs": {...}}
OnProgress = Callable[[str, int, int], None]  # node id, steps done, steps in all


class RequestError(HostError):
    """The server answered with an HTTP error; `status` and `body` are its answer."""

    def __init__(self, what: str, status: int, body: bytes) -> None:
        super().__init__(f"{what} failed with HTTP {status}: {_readable(body)}")
        self.status, self.body = status, body


class ExecutionError(HostError):
    """The prompt was accepted but did not finish; `run` says how far it came."""

    def __init__(self, run: "Run") -> None:
        super().__init__(f"the prompt ended with status {run.status}: {run.error or 'no message'}")
        self.run = run


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished prompt."""

    prompt_id: str
    status: str  # success, error or interrupted
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)  # what each output node shows, by node id
    error: str = ""  # of a node that raised: its type and message
    traceback: str = ""
    seconds: float = 0.0

    @property
    def files(self) -> list[dict[str, str]]:
        """The saved files in the order of the outputs: filename, subfolder, type."""
        values = [value for shown in self.outputs.values() for value in shown.values() if isinstance(value, list)]
        return [file for value in values for file in value if isinstance(file, dict) and "filename" in file]


class Client:
    """A client of the server at `url`, which must be `http://host:port`."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if not parts.hostname or not parts.port:
            raise ValueError(f"{url=} is not of the form http://host:port")
        self._host, self._port = parts.hostname, parts.port
        self._client_id = uuid.uuid4().hex

    def get(self, path: str) -> Any:
        """The JSON answer to a GET request."""
        return json.loads(self.get_bytes(path))

    def get_bytes(self, path: str) -> bytes:
        """The answer to a GET request as it is."""
        return self._request("GET", path)

    def post(self, path: str, body: Any) -> Any:
        """The JSON answer to a POST request with a JSON body; None when the answer is empty."""
        answer = self._request("POST", path, json.dumps(body).encode())
        return json.loads(answer) if answer.strip() else None

    def object_info(self) -> dict[str, Any]:
        """What every node type takes and gives."""
        info: dict[str, Any] = self.get("/object_info")
        return info

    def queue(self, prompt: Prompt) -> str:
        """Send a prompt in API form; return its id, or raise with everything the server found wrong."""
        prompt_id: str = self.post("/prompt", {"prompt": prompt, "client_id": self._client_id})["prompt_id"]
        return prompt_id

    def run(self, prompt: Prompt, *, timeout: float = 600, on_progress: OnProgress | None = None) -> Run:
        """Queue a prompt and wait for it; raise ExecutionError unless it succeeds. `timeout` is in seconds."""
        socket = WebSocket(self._host, self._port, f"/ws?clientId={self._client_id}")
        start = time.monotonic()
        try:
            prompt_id = self.queue(prompt)
            finished = self._follow(socket, prompt_id, start + timeout, on_progress)
        finally:
            socket.close()
        run = _read_history(prompt_id, finished, time.monotonic() - start)
        if run.status != "success":
            raise ExecutionError(run)
        return run

    def wait(self, prompt_id: str, *, timeout: float = 600) -> Run:
        """Wait for a queued prompt by asking for it again and again; the run may have failed."""
        start = time.monotonic()
        while time.monotonic() < start + timeout:
            entry = self.history(prompt_id)
            if entry is not None:
                return _read_history(prompt_id, entry, time.monotonic() - start)
            time.sleep(0.2)
        raise HostError(f"prompt {prompt_id} did not finish within {timeout:.0f} s")

    def history(self, prompt_id: str) -> dict[str, Any] | None:
        """The server's record of a finished prompt; None while it waits or runs."""
        entry: dict[str, Any] | None = self.get(f"/history/{quote(prompt_id)}").get(prompt_id)
        return entry

    def interrupt(self) -> None:
        """Ask the server to stop what it runs now."""
        self.post("/interrupt", {})

    def fetch(self, file: Mapping[str, str]) -> bytes:
        """The content of a file from `Run.files`."""
        query = {name: file[name] for name in ("filename", "subfolder", "type") if name in file}
        return self._request("GET", f"/view?{urlencode(query)}")

    def download(self, file: Mapping[str, str], folder: Path) -> Path:
        """Write a file from `Run.files` into `folder`."""
        target = folder / Path(file["filename"]).name
        target.write_bytes(self.fetch(file))
        return target

    def _follow(self, socket: WebSocket, prompt_id: str, end: float, on_progress: OnProgress | None) -> dict[str, Any]:
        """Report progress until the server has a record of the prompt, which it has only when it is finished."""
        asked = 0.0
        while time.monotonic() < end:
            message = socket.read(timeout=0.5)
            event = json.loads(message.payload) if message and message.opcode == TEXT else {}
            if on_progress and event.get("type") == "progress_state":
                for node, state in event["data"]["nodes"].items():
                    if state["state"] == "running" and state["max"] > 1:
                        on_progress(node, int(state["value"]), int(state["max"]))
            if message is None or event.get("type") in _LAST_EVENTS or time.monotonic() > asked + 2:
                asked = time.monotonic()
                entry = self.history(prompt_id)
                if entry is not None:
                    return entry
        self.interrupt()
        raise HostError(f"prompt {prompt_id} did not finish in time and was interrupted")

    def _request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=120)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        if response.status >= 400:
            raise RequestError(f"{method} {path}", response.status, answer)
        return answer


_LAST_EVENTS = ("execution_success", "execution_error", "execution_interrupted")


def _read_history(prompt_id: str, entry: dict[str, Any], seconds: float) -> Run:
    status = entry["status"]["status_str"]
    error = traceback = ""
    for kind, message in entry["status"]["messages"]:
        if kind == "execution_interrupted":
            status = "interrupted"
        if kind == "execution_error":
            where = f"{message['node_type']} (node {message['node_id']})"
            error = f"{where}: {message['exception_type']}: {message['exception_message'].strip()}"
            traceback = "".join(message["traceback"])
    return Run(
        prompt_id=prompt_id,
        status=status,
        outputs=entry["outputs"],
        error=error,
        traceback=traceback,
        seconds=seconds,
    )


def _readable(body: bytes) -> str:
    """What a refused prompt's answer says, in one line for each complaint."""
    try:
        answer = json.loads(body)
        error, nodes = answer["error"], answer.get("node_errors") or {}
        lines = [f"{error['message']} {error['details']}".strip()]
    except (ValueError, KeyError, TypeError):  # not a prompt's answer
        return body[:1000].decode(errors="replace")
    for node_id, node in nodes.items():
        for complaint in node["errors"]:
            lines.append(f"node {node_id} ({node['class_type']}): {complaint['message']} - {complaint['details']}")
    return "\n".join(lines)
