"""CogVideoX on several processes: they give what one gives, and the first of them alone talks and writes."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from cogvideox_processes import refusal, together, velocities
from narrow_cogvideox import build_transformer, save_files
from narrow_svd import fill
from safetensors.torch import save_file

from exvideo_core.cli import main
from exvideo_core.families.cogvideox.text_encoder import TextEncoderConfig, build_t5
from exvideo_core.lora import new_lora, save_lora
from exvideo_core.video import load_frames

pytestmark = pytest.mark.skipif(os.name != "posix", reason="gloo's processes are started as on POSIX")

ROOT = Path(__file__).resolve().parents[4]


@pytest.mark.parametrize("world", [2, 3])
def test_processes_together_predict_what_one_does(world: int, tmp_path: Path) -> None:
    alone, *everyone = velocities(), *together(world, velocities, tmp_path)

    assert len(everyone) == world
    for name, expected in alone.items():
        for result in everyone:
            assert float((result[name] - expected).abs().max() / expected.abs().max()) <= 1e-6, name
            assert torch.equal(result[name], everyone[0][name]), "else their clips drift apart"


def test_heads_that_cannot_be_shared_are_an_error(tmp_path: Path) -> None:
    command = [*_command(tmp_path), "-o", str(tmp_path / "clip.webp")]

    assert all(result["is refused"] for result in together(3, partial(refusal, command), tmp_path))


def test_torchrun_makes_the_clip_that_one_process_makes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = _command(tmp_path)
    assert main([*command, "-o", str(tmp_path / "alone.webp")]) == 0
    capfd.readouterr()

    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*torchrun, "-m", "exvideo_core", *command, "-o", str(tmp_path / "shared.webp")],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'shared.webp'}\n"
    assert done.stderr.count("16 tensors of rank 2 applied") == 1
    assert done.stderr.count("decoding: 100%") == 1
    alone, shared = (load_frames(tmp_path / f"{name}.webp") for name in ("alone", "shared"))
    assert float((alone - shared).abs().max()) <= 2 / 255


def test_torchrun_with_two_devices_for_one_process_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")

    assert main([*_command(tmp_path), "-o", str(tmp_path / "clip.webp"), "--device", "cuda:0,cuda:1"]) == 2
    assert "torchrun's have a GPU each" in capsys.readouterr().err


def _command(folder: Path) -> list[str]:
    """To generate a short clip with a narrow random model and a LoRA."""
    transformer, vae = save_files(folder)
    t5 = build_t5(TextEncoderConfig(d_model=8, num_layers=1, num_heads=2, d_kv=4, d_ff=16))
    fill(t5)
    save_file({name: weight.clone() for name, weight in t5.state_dict().items()}, folder / "t5.safetensors")
    lora = new_lora(build_transformer(), rank=2, generator=torch.Generator().manual_seed(0))
    for pair in lora.pairs.values():
        torch.nn.init.ones_(pair.up)
    save_lora(folder / "lora.safetensors", lora)
    files = ["--transformer", str(transformer), "--vae", str(vae), "--text-encoder", str(folder / "t5.safetensors")]
    sizes = ["--width", "48", "--height", "32", "--frames", "9", "--steps", "3", "--device", "cpu", "--dtype", "fp32"]
    return [
        "generate", "cogvideox", *files, "--lora", str(folder / "lora.safetensors"), "--prompt", "a fox", *sizes,
    ]  # fmt: skip
