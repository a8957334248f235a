"""Written checkpoints, apart from their content, which test_checkpoint_load.py reads back."""

from exvideo_core.checkpoint.save import save_extension
from exvideo_core.models.svd.config import UNetConfig
from exvideo_core.models.svd.unet import SVDUNet


def test_written_files_can_be_read_by_others(tmp_path):
    unet = SVDUNet(UNetConfig(widths=(8, 8, 8, 8), context_dim=8, time_dim=16, id_dim=8, extension_frames=2))

    save_extension(tmp_path / "extension.safetensors", unet.state_dict())

    assert (tmp_path / "extension.safetensors").stat().st_mode & 0o044 == 0o044
