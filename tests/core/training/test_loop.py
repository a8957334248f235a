"""A run in one process: what it writes, when, and how it goes on."""

import os
import signal
import tarfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_runs import cogvideox_config, column

from exvideo_core.cli import main
from exvideo_core.families.cogvideox.training import build_target
from exvideo_core.registry import training_recipes
from exvideo_core.runtime.distributed import World
from exvideo_core.training import loop
from exvideo_core.training.config import read_config
from exvideo_core.video import probe

EXPORT = "extension.safetensors"
OLD_RUN = Path(__file__).parents[2] / "golden" / "training_run_0.2.0.tar.xz"


def train(config):
    return main(["train", str(config), "--device", "cpu"])


def files(folder, pattern):
    return sorted(path.name for path in folder.glob(pattern))


def test_the_newest_saves_and_exports_are_kept(tmp_path):
    config = cogvideox_config(tmp_path, run__steps=7, run__save_every=2, run__keep_last=2, run__held_out_every=3)
    assert train(config) == 0

    run = tmp_path / "run"
    assert files(run / "checkpoints", "*") == ["step_00000006", "step_00000007"]
    assert files(run / "exports", "*") == ["extension_00000006.safetensors", "extension_00000007.safetensors"]
    assert (run / EXPORT).read_bytes() == (run / "exports" / "extension_00000007.safetensors").read_bytes()
    assert column(run, "step", "held_out.csv") == ["0", "3", "6", "7"]
    assert column(run, "step", "held_out_frames.csv") == ["0", "3", "6", "7"]
    assert (run / "curve.png").stat().st_size > 5000


def test_a_run_in_parts_is_the_run_in_one(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train(cogvideox_config(tmp_path, run__output=str(whole), run__steps=9)) == 0
    for steps in (2, 5, 9, 9):
        assert train(cogvideox_config(tmp_path, run__output=str(parts), run__steps=steps)) == 0

    assert column(parts, "loss") == column(whole, "loss")
    assert (parts / EXPORT).read_bytes() == (whole / EXPORT).read_bytes()


def test_a_run_of_version_0_2_0_resumes(tmp_path, monkeypatch):
    with tarfile.open(OLD_RUN) as archive:  # its folder after two of four steps, as that version left it
        archive.extractall(tmp_path / "run", filter="data")
    monkeypatch.chdir(tmp_path)
    model = {"model__rank": 1, "model__targets": ["to_q"]}
    config = cogvideox_config(
        Path(), run__steps=4, run__output="run", run__held_out_every=0, run__precision="fp32", **model
    )

    assert train(config) == 0

    # the losses of that version's own steps 3 and 4
    assert [float(loss) for loss in column(tmp_path / "run", "loss")] == pytest.approx(
        [1.8090816140174866, 2.4008928537368774, 1.933630883693695, 2.453573703765869], rel=1e-5
    )
    assert files(tmp_path / "run" / "checkpoints", "*") == ["step_00000002", "step_00000004"]


def test_muon_goes_on_as_well(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    muon = {"optimizer__kind": "muon", "model__rank": 16}
    assert train(cogvideox_config(tmp_path, run__output=str(whole), run__steps=6, **muon)) == 0
    for steps in (3, 6):
        assert train(cogvideox_config(tmp_path, run__output=str(parts), run__steps=steps, **muon)) == 0

    assert column(parts, "loss") == column(whole, "loss")


def test_averages_are_what_is_exported(tmp_path):
    for average in (0.0, 0.9):
        output = str(tmp_path / f"average_{average}")
        config = cogvideox_config(tmp_path, run__output=output, run__average=average, run__export_format="fp32")
        assert train(config) == 0
    last, averaged = (load_file(tmp_path / f"average_{average}" / EXPORT) for average in (0.0, 0.9))

    assert column(tmp_path / "average_0.0", "loss") == column(tmp_path / "average_0.9", "loss")
    name = "blocks.0.attn1.to_q.lora_B.default.weight"
    # it starts at zero and an average is behind
    assert 0.2 < float(averaged[name].norm() / last[name].norm()) < 0.97


def test_another_configuration_does_not_go_on_and_is_told_why(tmp_path, capsys):
    assert train(cogvideox_config(tmp_path, run__steps=2)) == 0

    assert train(cogvideox_config(tmp_path, run__steps=2, model__rank=8, run__seed=1)) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "run.seed was 0 and is 1; model.rank was 4 and is 8" in message
    assert "run.steps" not in message


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_after_its_step_and_it_goes_on(number, tmp_path, monkeypatch):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert train(cogvideox_config(tmp_path, run__output=str(whole), run__steps=8)) == 0
    config = cogvideox_config(tmp_path, run__output=str(stopped), run__steps=8)
    one_step = loop.Run._one_step

    def signalled(run):
        if run.step == 4:
            os.kill(os.getpid(), number)
        return one_step(run)

    monkeypatch.setattr(loop.Run, "_one_step", signalled)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert train(config) == 130
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert files(stopped / "checkpoints", "*") == ["step_00000005"]
    monkeypatch.undo()
    assert train(config) == 0

    assert column(stopped, "loss") == column(whole, "loss")


def test_a_loss_that_is_no_number_stops_the_run_before_a_save(tmp_path, capsys):
    config = cogvideox_config(tmp_path, run__save_every=1, optimizer__learning_rate=1e30, optimizer__clip_norm=0.0)

    assert train(config) == 2
    assert "the loss is NaN or Inf (nan) at step" in capsys.readouterr().err
    last = max((tmp_path / "run" / "exports").glob("*"))
    assert all(weight.isfinite().all() for weight in load_file(last).values()) or "00000001" in last.name


def test_a_validation_video_is_made_with_the_exported_file(tmp_path):
    config = cogvideox_config(tmp_path, run__steps=2, run__validate_every=2)
    assert train(config) == 0

    video = tmp_path / "run" / "validation" / "step_00000002.mp4"
    assert probe(video).num_frames == 17
    assert files(tmp_path / "run" / "validation", "*") == [video.name]


def test_training_lowers_the_held_out_loss(tmp_path):
    assert train(cogvideox_config(tmp_path, run__steps=40, run__held_out_every=40)) == 0

    before, after = map(float, column(tmp_path / "run", "all", "held_out.csv"))
    assert after < 0.97 * before


def test_only_the_trained_part_changes(tmp_path):
    config = read_config(cogvideox_config(tmp_path), training_recipes())
    torch.manual_seed(0)
    target = build_target(config, World())
    before = {name: weight.clone() for name, weight in target.transformer.state_dict().items()}

    engine = loop.make_engine(config, target, World())
    started = {name: weight.clone() for name, weight in engine.gathered().items()}
    for step in range(2):
        engine.backward(iter([lambda step=step: target.loss(step, step)]), 1)
        assert engine.step(1.0) > 0

    assert all(torch.equal(weight, before[name]) for name, weight in target.transformer.state_dict().items())
    assert all(not torch.equal(weight, started[name]) for name, weight in engine.gathered().items())
