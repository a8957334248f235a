"""Nothing that comes in from outside is run: what could do that is not called, or has a reason here.

Most of it is ruff's part (S in pyproject.toml: eval, exec, pickle.load, shells, unsafe YAML and others). Here is what
ruff does not know, for Python and for the page's scripts.
"""

import ast
import json
import re
import subprocess
import sys

import pytest
from test_packaging import ROOT, our_files

MODULES = {
    "pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "ctypes", "cffi", "runpy", "code", "imp",
    "pty", "socket", "socketserver", "http.server", "xmlrpc", "telnetlib", "ftplib", "smtplib",
}  # fmt: skip
CALLS = {"compile", "__import__"}  # by these very names
METHODS = {  # by their last names, whatever they are taken from
    "import_module", "open_connection", "create_connection", "mktemp", "extractall", "unpack_archive",
    "add_safe_globals", "PackageImporter",
}  # fmt: skip
LOADS = {"torch.jit.load", "torch.hub.load", "torch.export.load", "np.load", "numpy.load"}
ARGUMENTS = {"allow_pickle": False, "weights_only": True, "trust_remote_code": False, "shell": False, "verify": True}
# Where something of it is used, and why that is no danger.
ALLOWED = {
    ("exvideo_core/training/safe_load.py", "pickle"): "reads only the names that a list of tensors is made of",
    ("exvideo_core/nn/attention/backends.py", "import_module"): "a name out of a table in the same file",
    ("exvideo_core/aliases.py", "import_module"): "a name out of a table in the same file",
    ("exvideo_core/__init__.py", "import_module"): "a name out of a table in the same file",
    ("exvideo_core/family.py", "import_module"): "a module of a family, named in the family's own file",
    ("exvideo_core/nn/kernels/operators.py", "import_module"): "the module of a kernel, by a name in the same file",
}
# Tests and measurements run the repository's code, make the files that readers refuse, and are servers on this machine.
NOT_SHIPPED = ("tests", "benchmarks")
FILES = [path for path in our_files(".py", ".js", ".md") if path.parts[0] not in NOT_SHIPPED]
SHIPPED = [path for path in FILES if path.suffix == ".py"]
SCRIPTS = [path for path in FILES if path.suffix == ".js"]
HELP = [path for path in FILES if path.suffix == ".md" and path.parts[0] == "web"]

BAD_SCRIPT = {  # what a page's script could run, or put into the page, or ask of others
    "eval": r"\beval\s*\(",
    "Function": r"\bFunction\s*\(",
    "text in a timer": r"\bset(Timeout|Interval)\s*\(\s*[\"'`]",
    "HTML out of text": r"\b(innerHTML|outerHTML|insertAdjacentHTML|srcdoc|document\.write)\b",
    "another host": r"(https?|wss?):|[\"'`]//",
    "import at run time": r"\bimport\s*\(",
    "own requests": r"(?<![.\w])fetch\s*\(|XMLHttpRequest|WebSocket|EventSource|sendBeacon|postMessage",
    "storage": r"\b(localStorage|sessionStorage|indexedDB|document\.cookie)\b",
}


def name_of(function):
    return ast.unparse(function) if isinstance(function, (ast.Name, ast.Attribute)) else ""


def findings(text):
    """What a file of Python does that would need a reason."""
    for node in ast.walk(ast.parse(text)):
        yield from _of_a_call(node) if isinstance(node, ast.Call) else set(_imported(node)) & MODULES


def _imported(node):
    """The modules that a statement imports, with those that they are in."""
    names = []
    if isinstance(node, ast.Import):
        names = [name.name for name in node.names]
    elif isinstance(node, ast.ImportFrom) and node.level == 0:
        names = [node.module, *(f"{node.module}.{name.name}" for name in node.names)]
    for name in names:
        yield from (".".join(name.split(".")[: end + 1]) for end in range(name.count(".") + 1))


def _of_a_call(node):
    name = name_of(node.func)
    last = name.rpartition(".")[2]
    if name in CALLS | LOADS or last in METHODS:
        yield last if last in METHODS else name
    given = {word.arg: word.value for word in node.keywords}
    for argument, harmless in ARGUMENTS.items():
        if argument in given and not (isinstance(given[argument], ast.Constant) and given[argument].value is harmless):
            yield argument
    if name == "torch.load" and "weights_only" not in given:
        yield "torch.load"
    if name.endswith("urlopen") and "timeout" not in given:
        yield "urlopen"


@pytest.mark.parametrize("file", SHIPPED, ids=str)
def test_nothing_foreign_is_run(file):
    found = set(findings((ROOT / file).read_text(encoding="utf-8")))

    assert {what for what in found if (file.as_posix(), what) not in ALLOWED} == set()


def test_downloads_alone_use_the_network():
    modules = {"urllib.request", "http.client", "requests", "httpx", "huggingface_hub", "aiohttp", "modelscope"}
    users = {
        file.as_posix()
        for file in SHIPPED
        for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8")))
        if modules & set(_imported(node))
    }

    # the second answers the page through ComfyUI's server
    assert {user for user in users if not user.startswith("exvideo_core/hub/")} == {"nodes/files.py"}
    assert users > {"nodes/files.py"}


def test_every_exception_is_needed():
    for file, what in ALLOWED:
        assert what in findings((ROOT / file).read_text(encoding="utf-8")), (file, what)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("import pickle", "pickle"),
        ("from pickle import loads", "pickle"),
        ("from http import server", "http.server"),
        ("import http.server", "http.server"),
        ("import ctypes.util", "ctypes"),
        ("import socket", "socket"),
        ("compile(text, name, mode)", "compile"),
        ("__import__(name)", "__import__"),
        ("importlib.import_module(name)", "import_module"),
        ("torch.load(path)", "torch.load"),
        ("torch.load(path, weights_only=False)", "weights_only"),
        ("torch.load(path, weights_only=chosen)", "weights_only"),
        ("np.load(path)", "np.load"),
        ("read(path, allow_pickle=True)", "allow_pickle"),
        ("tar.extractall(folder)", "extractall"),
        ("shutil.unpack_archive(file)", "unpack_archive"),
        ("AutoModel.from_pretrained(name, trust_remote_code=True)", "trust_remote_code"),
        ("subprocess.run(line, shell=True)", "shell"),
        ("requests.get(url, verify=False)", "verify"),
        ("tempfile.mktemp()", "mktemp"),
        ("urllib.request.urlopen(url)", "urlopen"),
        ("torch.serialization.add_safe_globals([Anything])", "add_safe_globals"),
    ],
)
def test_it_would_be_seen(text, what):
    assert what in findings(text)


@pytest.mark.parametrize(
    "text",
    ["re.compile('a')", "torch.compile(chain)", "torch.load(path, weights_only=True)", "from .code import x",
     "urlopen(url, timeout=3)", "importlib.util.find_spec(name)", "network.eval()"],
)  # fmt: skip
def test_what_only_looks_like_it_is_not(text):
    assert list(findings(text)) == []


EXAMPLES = {
    "S102": f"{'exec'}(text)",  # put together, for those who search repositories for the words
    "S301": "import pickle\npickle.loads(text)",
    "S302": "import marshal\nmarshal.loads(text)",
    "S306": "import tempfile\ntempfile.mktemp()",
    "S307": f"{'eval'}(text)",
    "S310": "import urllib.request\nurllib.request.urlopen(url)",
    "S324": "import hashlib\nhashlib.md5(text)",
    "S323": "import ssl\nssl._create_unverified_context()",
    "S202": "import tarfile\ntarfile.open(path).extractall()",
    "S506": "import yaml\nyaml.load(text)",
    "S602": "import subprocess\nsubprocess.run(line, shell=True)",
    "S605": "import os\nos.system(line)",
    "S113": "import requests\nrequests.get(url)",
    "S104": "host = '0.0.0.0'",
    "S110": "try:\n    go()\nexcept Exception:\n    pass",
}


def test_ruff_sees_the_rest():
    text = "\n".join(EXAMPLES.values())
    command = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--output-format",
        "json",
        "--stdin-filename",
        "nodes/new.py",
        "-",
    ]
    done = subprocess.run(command, cwd=ROOT, input=text, capture_output=True, text=True)

    assert {finding["code"] for finding in json.loads(done.stdout)} >= EXAMPLES.keys()


@pytest.mark.parametrize("file", SCRIPTS, ids=str)
def test_a_script_of_the_page_runs_and_asks_for_nothing_foreign(file):
    text = (ROOT / file).read_text(encoding="utf-8")

    assert [what for what, pattern in BAD_SCRIPT.items() if re.search(pattern, text)] == []


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("eval", f"{'eval'}(text)"),
        ("Function", "new Function(text)"),
        ("text in a timer", "setTimeout('go()', 3)"),
        ("HTML out of text", "element.innerHTML = text"),
        ("another host", 'const address = "https://example.org/a.js"'),
        ("another host", 'image.src = "//example.org/a.png"'),
        ("import at run time", "await import(name)"),
        ("own requests", "await fetch(address)"),
        ("storage", "localStorage.setItem(key, text)"),
    ],
)
def test_it_would_be_seen_in_a_script(what, text):
    assert re.search(BAD_SCRIPT[what], text)


@pytest.mark.parametrize("file", HELP, ids=str)
def test_a_help_page_shows_pictures_of_the_pack_alone(file):
    text = (ROOT / file).read_text(encoding="utf-8")

    assert not re.search(r"!\[[^]]*\]\(\s*(\w+:|//)|<\s*(script|iframe|object|embed|img|video)\b|\bon\w+\s*=", text)
