"""A Hugging Face and a ModelScope on this machine that can behave badly, and a second host where the files lie."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

COMMIT = "c0ffee" * 6 + "cafe"


class Hub:
    """What the two hosts serve. Set the attributes to make them misbehave.

    Attributes:
        files: contents by "owner/name/path".
        answers: what the next requests for contents get, one each: a status, or one of whole, stall, drop, lie, longer,
            garbage. Afterwards they are whole.
        after: bytes before a stall or drop.
        ranges: whether parts are given.
        announced: SHA-256 to announce in place of the true ones.
        status: of announcements.
        pace: seconds for each 64 KiB.
        requests: (host, method, path, headers) of all that were asked for.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.answers: list[str | int] = []
        self.after = 1000
        self.ranges = True
        self.announced: str | None = None
        self.status = 200
        self.pace = 0.0
        self.requests: list[tuple[str, str, str, dict[str, str]]] = []
        self.url = self.store = ""
        self.leaving = threading.Event()

    def sent(self, host: str, method: str = "GET") -> list[dict[str, str]]:
        """Headers of the requests a host ("hub" or "store") has got."""
        return [headers for where, how, _, headers in self.requests if (where, how) == (host, method)]


@contextmanager
def running_hub(port=0):
    """The hub at a port, 0 for any, and the second host."""
    hub = Hub()
    servers = [_server(hub, "hub", port), _server(hub, "store", 0)]
    hub.url, hub.store = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    for server in servers:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield hub
    finally:
        hub.leaving.set()
        for server in servers:
            server.shutdown()
            server.server_close()


def _server(hub: Hub, host: str, port: int) -> ThreadingHTTPServer:
    class Handler(_Handler):
        pass

    Handler.hub, Handler.host = hub, host
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    return server


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub
    host: str

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self._answer()

    def _answer(self):
        hub, path = self.hub, urlsplit(self.path).path
        hub.requests.append((self.host, self.command, self.path, dict(self.headers)))
        if path.startswith("/api/v1/models/"):
            self._list(path.removeprefix("/api/v1/models/").removesuffix("/repo/files"))
        elif self.host == "store":
            self._send_content(hub.files[path.strip("/")])
        else:
            repository, _, rest = path.strip("/").removeprefix("models/").partition("/resolve/")
            self._redirect(f"{repository}/{rest.partition('/')[2]}")

    def _redirect(self, key):
        hub = self.hub
        if hub.status != 200 or key not in hub.files:
            return self._headers(hub.status if hub.status != 200 else 404, {"Content-Length": "0"})
        content = hub.files[key]
        return self._headers(
            302,
            {
                "Location": f"{hub.store}/{key}",
                "X-Repo-Commit": COMMIT,
                "X-Linked-Size": str(len(content)),
                "X-Linked-Etag": f'"{hub.announced or hashlib.sha256(content).hexdigest()}"',
                "Content-Length": "0",
            },
        )

    def _list(self, repository):
        root = parse_qs(urlsplit(self.path).query).get("Root", [""])[0]
        files = [
            {"Path": path, "Type": "blob", "Size": len(content), "Sha256": hashlib.sha256(content).hexdigest()}
            for key, content in self.hub.files.items()
            if (path := key.removeprefix(f"{repository}/")) != key and path.rpartition("/")[0] == root
        ]
        text = json.dumps({"Code": 200, "Data": {"Files": files}, "Success": True}).encode()
        status = self.hub.status if files or self.hub.status != 200 else 404
        self._headers(status, {"Content-Length": str(len(text))})
        self.wfile.write(text)

    def _send_content(self, content):
        hub = self.hub
        answer = hub.answers.pop(0) if hub.answers else "whole"
        if isinstance(answer, int):
            return self._headers(answer, {"Content-Length": "0"})
        etag = f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'
        start = self._start(etag)
        if start >= len(content) and start:
            return self._headers(416, {"Content-Length": "0"})
        rest = bytes(len(content) - start) if answer == "garbage" else content[start:]
        length = len(rest) + {"lie": 500, "short": -500}.get(answer, 0)
        headers = {"Content-Length": str(length), "ETag": etag}
        if start:
            headers["Content-Range"] = f"bytes {start}-{start + length - 1}/{start + length}"
        self._headers(206 if start else 200, headers)
        return self._write(rest[: hub.after] if answer in ("stall", "drop") else rest, answer)

    def _write(self, content, answer):
        try:
            for begin in range(0, len(content), 1 << 16):
                self.wfile.write(content[begin : begin + (1 << 16)])
                time.sleep(self.hub.pace)
            self.wfile.flush()
            if answer == "stall":
                self.hub.leaving.wait(30)
        except OSError:
            pass  # the other side has left
        self.close_connection = self.close_connection or answer != "whole"

    def _start(self, etag):
        asked = self.headers.get("Range", "")
        if not self.hub.ranges or not asked or self.headers.get("If-Range", etag) != etag:
            return 0
        return int(asked.removeprefix("bytes=").partition("-")[0])

    def _headers(self, status, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
