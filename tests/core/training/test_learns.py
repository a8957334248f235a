"""The shipped example: a minute of training teaches the demo model frames that it did not know."""

import csv
from pathlib import Path

import pytest
import torch
import yaml

from exvideo_core import load_svd
from exvideo_core.cli import main
from exvideo_core.families.svd.files import DEMO_CHECKPOINT

EXAMPLE = Path(__file__).parents[3] / "samples" / "training" / "quickstart.yaml"


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """The folder of the example's run."""
    folder = tmp_path_factory.mktemp("quickstart")
    config = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    config["run"]["output"] = str(folder / "run")
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert main(["train", str(folder / "config.yaml"), "--device", "cpu"]) == 0
    finally:
        torch.set_num_threads(threads)
    return folder / "run"


def test_sixty_steps_lower_the_held_out_loss_beyond_the_base_s_frames(output):
    with (output / "held_out.csv").open(newline="") as file:
        first, last = csv.DictReader(file)

    assert (first["step"], last["step"]) == ("0", "60")
    assert float(last["beyond"]) < 0.97 * float(first["beyond"])
    assert float(last["all"]) < 0.97 * float(first["all"])
    assert float(first["beyond"]) > 10 * float(first["within"])  # or there would be nothing to learn


def test_what_it_exports_loads_and_changes_the_clip(output):
    picture = torch.rand(128, 128, 3, generator=torch.Generator().manual_seed(0))
    trained, base = (
        load_svd(DEMO_CHECKPOINT, extension, device="cpu")(
            picture,
            num_frames=30,
            width=128,
            height=128,
            fps=30,
            num_inference_steps=1,
            min_guidance_scale=1.0,
            max_guidance_scale=1.0,
            normalize=False,
            contrast=1.0,
        ).latents
        for extension in (output / "quickstart.safetensors", None)
    )

    change = (trained - base).square().mean(dim=(1, 2, 3))
    assert change[25:].mean() > 0.01
