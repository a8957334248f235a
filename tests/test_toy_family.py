"""A third model joins by one line, and everything that is not about one model knows it."""

import csv
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from toy_family import TOY
from toy_family.network import GEOMETRY, METHODS, levels_of, new_weights, save_toy
from toy_family.pipeline import load_toy

from exvideo_core import registry
from exvideo_core.cli import main
from exvideo_core.errors import CheckpointError, ClipError
from exvideo_core.lora import apply_lora, read_lora, remove_loras, save_lora
from exvideo_core.video import load_frames

CONFIG = """
target: toy
run: {{output: {output}, steps: {steps}, batch_size: 2, save_every: 2, held_out_every: 4, precision: fp32, average: 0}}
model: {{weights: {weights}}}
data: {{source: procedural, held_out: 1, width: 16, height: 16}}
optimizer: {{learning_rate: 0.02, warmup_steps: 0}}
"""


@pytest.fixture(autouse=True)
def _third_family(monkeypatch):
    monkeypatch.setattr(registry, "FAMILIES", (*registry.FAMILIES, TOY))  # the one line


@pytest.fixture
def weights(tmp_path):
    save_toy(tmp_path / "toy.safetensors", new_weights())
    return tmp_path / "toy.safetensors"


@pytest.fixture
def lora(tmp_path):
    generator = torch.Generator().manual_seed(1)
    sizes = {"first": (8, 4), "second": (3, 8)}
    pairs = {}
    for layer, (out, inner) in sizes.items():
        pairs[f"toy.{layer}.lora_A.weight"] = torch.randn(2, inner, generator=generator)
        pairs[f"toy.{layer}.lora_B.weight"] = torch.randn(out, 2, generator=generator)
    save_file(pairs, tmp_path / "toy_lora.safetensors")
    return tmp_path / "toy_lora.safetensors"


def test_inspect_knows_its_files(weights, lora, capsys):
    assert main(["inspect", str(weights)]) == 0
    assert main(["inspect", str(lora)]) == 0

    said = capsys.readouterr().out
    assert "toy.safetensors: a toy network" in said
    assert "toy_lora.safetensors: a toy LoRA" in said
    assert "loads       yes, 2 weights" in said


def test_other_models_say_what_its_file_is(weights):
    from exvideo_core import load_svd

    with pytest.raises(CheckpointError, match="a toy network, not an SVD checkpoint; choose it as the toy"):
        load_svd(weights)


def test_generate_writes_its_clip(weights, tmp_path):
    video = tmp_path / "toy.mp4"

    assert main(["generate", "toy", "--weights", str(weights), "--output", str(video), "--frames", "5"]) == 0

    assert len(list(load_frames(video))) == 5


def test_generate_resumes_an_interrupted_run(weights, tmp_path, monkeypatch):
    network = load_toy(weights)
    whole = network(num_inference_steps=6, seed=3)
    calls = []

    def stop_after_two(step, _steps, _denoised):
        calls.append(step)
        if len(calls) == 2:
            raise InterruptedError

    monkeypatch.setattr("exvideo_core.runtime.resume.INTERVAL", 0)
    state = tmp_path / "toy.unfinished"
    with pytest.raises(InterruptedError):
        network(num_inference_steps=6, seed=3, callback=stop_after_two, resume=state)
    resumed = []
    result = network(num_inference_steps=6, seed=3, callback=lambda step, *_: resumed.append(step), resume=state)

    assert resumed[0] > 1
    assert torch.equal(result, whole)


def test_estimate_counts_its_operations(weights, capsys):
    assert main(["generate", "toy", "--weights", str(weights), "--estimate"]) == 0

    said = capsys.readouterr().out
    flops = 2 * (4 * 8 + 8 * 3) * 16 * 16 * 6 * 4  # two layers, every pixel of six frames, four steps
    assert f"operations  {flops / 1e12:.4g} TFLOP" in said


def test_its_frame_and_size_rules_are_asked(weights):
    with pytest.raises(ClipError, match="The nearest size is 16x18"):
        load_toy(weights)(height=17)
    with pytest.raises(ClipError, match="1 frames are not possible"):
        load_toy(weights)(num_frames=1)


def test_the_solver_is_euler_for_flow_matching():
    x = start = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    values = METHODS["flow"].schedule(5, 1.0)
    velocity = 0.3 * torch.ones_like(x)

    result = METHODS["flow"].solve(lambda x, level: x - level * velocity, x, levels_of(values))

    for now, after in pairwise(values):
        start = start + (after - now) * velocity
    torch.testing.assert_close(result, start)


def test_its_lora_is_applied_and_removed(weights, lora):
    pipeline = load_toy(weights)
    before = pipeline(seed=1)

    report = apply_lora(pipeline, lora)
    changed = pipeline(seed=1)
    remove_loras(pipeline.transformer)

    assert (report.weights, report.applied) == (2, 4)
    assert not torch.equal(changed, before)
    assert torch.equal(pipeline(seed=1), before)


def test_its_lora_is_saved_under_its_own_names(lora, tmp_path):
    save_lora(tmp_path / "again.safetensors", read_lora(lora))

    again = read_lora(tmp_path / "again.safetensors")
    assert again.pairs.keys() == read_lora(lora).pairs.keys()
    assert all(name.startswith("toy.") for name in load_file(tmp_path / "again.safetensors"))


def test_another_family_s_lora_is_refused(weights, tmp_path):
    save_file(
        {
            "transformer_blocks.0.attn1.to_q.lora_A.weight": torch.ones(2, 8),
            "transformer_blocks.0.attn1.to_q.lora_B.weight": torch.ones(8, 2),
        },
        tmp_path / "cog.safetensors",
    )
    with pytest.raises(CheckpointError, match="does not fit"):
        apply_lora(load_toy(weights), tmp_path / "cog.safetensors")


def train(config: Path, **values) -> int:
    config.write_text(CONFIG.format(**values), encoding="utf-8")
    return main(["train", str(config), "--device", "cpu"])


def held_out(output: Path) -> list[float]:
    with (output / "held_out.csv").open(encoding="utf-8") as file:
        return [float(row["all"]) for row in csv.DictReader(file)]


def test_training_learns_resumes_and_exports(weights, tmp_path):
    output, whole = tmp_path / "run", tmp_path / "whole"

    assert train(tmp_path / "run.yaml", output=output, steps=4, weights=weights) == 0
    assert train(tmp_path / "run.yaml", output=output, steps=8, weights=weights) == 0  # resumes
    assert train(tmp_path / "whole.yaml", output=whole, steps=8, weights=weights) == 0

    losses = held_out(output)
    assert losses[-1] < losses[0]
    assert losses == held_out(whole)
    assert (output / "log.csv").read_text(encoding="utf-8").count("\n") == 9  # title and 8 steps
    assert torch.equal(load_toy(output / "toy.safetensors")(), load_toy(whole / "toy.safetensors")())


def test_training_writes_a_configuration_and_checks_it(weights, tmp_path, capsys):
    assert main(["train", "--init", "toy"]) == 0
    written = capsys.readouterr().out
    assert 'target: "toy"' in written
    assert 'weights: "toy.safetensors"' in written

    config = tmp_path / "run.yaml"
    config.write_text(CONFIG.format(output=tmp_path / "run", steps=4, weights=weights), encoding="utf-8")
    assert main(["train", str(config), "--dry-run"]) == 0
    assert "0.0 million numbers in 2 tensors are trained" in capsys.readouterr().out.replace("parameters", "numbers")


def test_training_refuses_sizes_that_its_geometry_refuses(weights, tmp_path, capsys):
    config = tmp_path / "run.yaml"
    text = CONFIG.format(output=tmp_path / "run", steps=4, weights=weights).replace("width: 16", "width: 17")
    config.write_text(text, encoding="utf-8")

    assert main(["train", str(config)]) == 2
    assert "The nearest size is 18x16" in capsys.readouterr().err


def test_geometry_is_the_family_s():
    assert registry.family("toy").geometry is GEOMETRY
