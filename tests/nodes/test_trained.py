"""What the trainer exports, in a running ComfyUI: the loaders take it as it is, and it changes the video."""

import shutil
import time

import numpy as np
import pytest
from in_comfyui import COGVIDEOX_WORKFLOW, SMALL, SVD_WORKFLOW, WORKFLOWS, change, place_files
from training_runs import cogvideox_config, svd_config

from exvideo_core.cli import main
from exvideo_core.video import read_video
from host.graph import nodes_of, read_graph, to_prompt

pytestmark = pytest.mark.comfyui


@pytest.fixture(scope="module")
def server(comfyui):
    place_files(comfyui.base, WORKFLOWS)
    return comfyui


def exported(config_of, folder, rate):
    """A short run's file; at rate 0 what is trained is as it was at the start."""
    config = config_of(
        folder,
        run__output=str(folder / f"rate_{rate}"),
        run__steps=3 if rate else 1,
        run__held_out_every=0,
        data__held_out=0,
        model__num_frames={svd_config: 8, cogvideox_config: 9}[config_of],
        optimizer__learning_rate=rate,
        optimizer__weight_decay=0.0,
        data__windows=[],
    )
    assert main(["train", str(config), "--device", "cpu"]) == 0
    return folder / f"rate_{rate}" / "extension.safetensors"


@pytest.mark.parametrize(
    ("config_of", "workflow", "folder", "loader", "slot"),
    [
        (svd_config, SVD_WORKFLOW, "exvideo", "ExVideoSVDLoader", "extension"),
        (cogvideox_config, COGVIDEOX_WORKFLOW, "loras", "ExVideoLoRAApply", "lora"),
    ],
    ids=["svd", "cogvideox"],
)
def test_exported_files_load_and_change_the_video(config_of, workflow, folder, loader, slot, server, tmp_path):
    videos = []
    for rate in (0.0, 0.05):
        name = f"trained_{rate}.safetensors"
        shutil.copy(exported(config_of, tmp_path, rate), server.base / "models" / folder / name)
        time.sleep(1.1)  # ComfyUI looks again when the folder's time has changed
        prompt = to_prompt(read_graph(workflow), server.client.object_info())
        change(prompt, SMALL)
        (node,) = nodes_of(prompt, loader)
        node["inputs"][slot] = name
        video = server.client.download(server.client.run(prompt).files[0], tmp_path)
        videos.append(np.stack(list(read_video(video))).astype(float))

    assert videos[0].shape == videos[1].shape
    assert np.abs(videos[0] - videos[1]).mean() > 1
