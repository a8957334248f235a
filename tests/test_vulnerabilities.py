"""What is known against the packages of the locks.

    python run.py test tests/test_vulnerabilities.py -m network

asks the package index, which passes on what https://github.com/pypa/advisory-database has. Some indexes do not.
"""

import json
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from host.environment import HERE
from host.lock import INPUTS

# What concerns nothing that is done here, by the names of the advisory: why.
ACCEPTED: dict[str, str] = {}


def audit(*files, options=()):
    """What is known, as (package, names of the advisory), and the packages of which nothing could be asked."""
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes", "--format", "json"]
    command += ["--progress-spinner", "off", *options, *(word for file in files for word in ("-r", str(file)))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    packages = json.loads(done.stdout)["dependencies"]
    known = [(each["name"], {one["id"], *one["aliases"]}) for each in packages for one in each.get("vulns", ())]
    return known, [each["name"] for each in packages if "skip_reason" in each]


@pytest.mark.network
def test_nothing_is_known_against_the_locked_packages():
    known, unasked = audit(*(HERE / name for name in INPUTS))

    assert [(name, names) for name, names in known if not names & ACCEPTED.keys()] == []
    if len(unasked) > 50:
        pytest.skip(f"the package index here passes on no advisories: {len(unasked)} packages could not be asked about")
    assert unasked == []


@contextmanager
def service(answer):
    """An OSV service on this machine that says the same about every package."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            text = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield ["-s", "osv", "--osv-url", f"http://127.0.0.1:{server.server_port}"]
    finally:
        server.shutdown()
        server.server_close()


def test_what_is_known_is_told(tmp_path):
    lock = tmp_path / "some.lock"
    lock.write_text(f"einops==0.8.2 --hash=sha256:{'0' * 64}\n")
    affected = [{"package": {"name": "einops", "ecosystem": "PyPI"}, "versions": ["0.8.2"], "ranges": []}]
    advisory = {"id": "PYSEC-1", "aliases": ["CVE-1"], "summary": "bad", "published": "2026-01-01T00:00:00Z"}
    with service({"vulns": [advisory | {"affected": affected}]}) as options:
        assert audit(lock, options=options) == ([("einops", {"PYSEC-1", "CVE-1"})], [])
