"""A hub on this machine in the place of Hugging Face and ModelScope, and a folder to download to."""

import pytest
from hub_server import running_hub


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with running_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("MODELSCOPE_DOMAIN", hub.url)
        monkeypatch.setenv("HF_TOKEN", "secret")
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        yield hub


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "models" / "exvideo"
