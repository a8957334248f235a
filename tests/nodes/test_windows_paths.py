"""Names as ComfyUI lists and saves them on Windows, where subfolders end in a backslash."""

from pathlib import PureWindowsPath

import pytest

SHARD = "cog\\diffusion_pytorch_model-0000{}-of-00002.safetensors"


@pytest.fixture
def listed(pack, monkeypatch):
    import folder_paths

    names = ["svd\\svd_xt.safetensors", SHARD.format(1), SHARD.format(2)]
    monkeypatch.setattr(folder_paths, "get_filename_list", lambda folder: names)
    return names


def test_later_shards_in_subfolders_are_not_offered(pack, listed):
    assert set(listed) - set(pack.cogvideox.files.TRANSFORMERS.names()) == {SHARD.format(2)}


def test_own_files_come_first_among_extensions(pack, listed):
    assert pack.svd.files.EXTENSIONS.names()[: len(listed)] == listed


def test_workflow_saved_on_windows_finds_the_file_elsewhere(pack):
    file = pack.base / "models" / "checkpoints" / "windows" / "svd_xt.safetensors"
    file.parent.mkdir(parents=True)
    file.touch()
    try:
        saved = str(PureWindowsPath("windows", "svd_xt.safetensors"))
        assert pack.svd.files.CHECKPOINTS.find(saved) == file
    finally:
        file.unlink()
