"""Fixtures of all tests: the repository, and running ComfyUI servers with this pack in them."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import pytest
import sharing
from full_suite import is_full

from host.client import Client
from host.comfyui_trees import NEWEST, OLDEST
from host.environment import Environment
from host.server import Server, free_port

ROOT = Path(__file__).resolve().parents[1]
PACK = "ComfyUI-ExVideo"
pytest.register_assert_rewrite("rounding")  # for the numbers in its messages


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return sharing.scheduler(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if is_full(item):
            item.add_marker("full")
    items.sort(key=lambda item: sharing.position(item.nodeid.partition("::")[0]))


@dataclass(frozen=True)
class RunningComfyUI:
    """A server that runs for the whole session, with this pack linked into it."""

    server: Server
    client: Client
    base: Path  # with its folders models, input, output, user, custom_nodes
    hub_port: int  # where it looks for Hugging Face: nobody, or a server of a test

    @property
    def url(self) -> str:
        return self.server.url


@pytest.fixture(scope="session")
def pack_root() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def comfyui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningComfyUI]:
    """The newest supported ComfyUI; EXVIDEO_COMFYUI names a source tree to use instead."""
    named = os.environ.get("EXVIDEO_COMFYUI")
    tree = Path(named) if named else Environment(ROOT).tree(NEWEST)
    yield from _run(tree, tmp_path_factory.mktemp("comfyui"))


@pytest.fixture(scope="session")
def oldest_comfyui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningComfyUI]:
    """The oldest supported ComfyUI."""
    yield from _run(Environment(ROOT).tree(OLDEST), tmp_path_factory.mktemp("oldest_comfyui"))


def _run(tree: Path, base: Path) -> Iterator[RunningComfyUI]:
    if not (tree / "main.py").exists():
        pytest.skip(f"no ComfyUI in {tree}: `python run.py test` puts one there")
    hub_port = free_port()
    environment = {"HF_ENDPOINT": f"http://127.0.0.1:{hub_port}", "HF_HOME": str(base / "huggingface")}
    server = Server(Path(sys.executable), tree, base, packs={PACK: ROOT})
    with patch.dict(os.environ, environment):
        server.start()
    with server:
        yield RunningComfyUI(server, Client(server.url), base, hub_port)
