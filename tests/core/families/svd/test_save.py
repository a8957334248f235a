"""Written checkpoints, apart from their content, which test_checkpoint_load.py reads back."""

import pytest
import torch
from safetensors import safe_open

from exvideo_core.errors import CheckpointError
from exvideo_core.families.svd.config import UNetConfig
from exvideo_core.families.svd.save import save_extension
from exvideo_core.families.svd.unet import SVDUNet
from exvideo_core.weights.write import write_weights


def test_written_files_can_be_read_by_others(tmp_path):
    unet = SVDUNet(UNetConfig(widths=(8, 8, 8, 8), context_dim=8, time_dim=16, id_dim=8, extension_frames=2))

    save_extension(tmp_path / "extension.safetensors", unet.state_dict())

    assert (tmp_path / "extension.safetensors").stat().st_mode & 0o044 == 0o044


def test_notes_are_written(tmp_path):
    write_weights(tmp_path / "a.safetensors", {"x": torch.ones(2)}, {"note": "1"})

    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert file.metadata() == {"note": "1"}


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(CheckpointError, match=r"the folder .*file does not exist"):
        write_weights(tmp_path / "file" / "a.safetensors", {"x": torch.ones(2)})
