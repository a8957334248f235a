"""`exvideo generate cogvideox`: what it prints, writes and returns."""

from pathlib import Path

import pytest
import torch
from narrow_cogvideox import build_transformer, save_files
from narrow_svd import fill
from safetensors.torch import save_file

from exvideo_core import CogVideoXPipeline
from exvideo_core.cli import main
from exvideo_core.families.cogvideox import command as generate_cogvideox
from exvideo_core.families.cogvideox.text_encoder import TextEncoderConfig, build_t5
from exvideo_core.lora import new_lora, save_lora
from exvideo_core.video import load_frames, probe


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A narrow random model and a LoRA."""
    folder = tmp_path_factory.mktemp("model")
    save_files(folder)
    t5 = build_t5(TextEncoderConfig(d_model=8, num_layers=1, num_heads=2, d_kv=4, d_ff=16))
    fill(t5)
    save_file({name: weight.clone() for name, weight in t5.state_dict().items()}, folder / "t5.safetensors")
    lora = new_lora(build_transformer(), rank=2)
    for pair in lora.pairs.values():
        torch.nn.init.ones_(pair.up)
    save_lora(folder / "lora.safetensors", lora)
    return folder


def _generate(files: Path, output: Path, *more: str) -> int:
    model = ["--transformer", "cogvideox_transformer.safetensors", "--vae", "cogvideox_vae.safetensors"]
    given = [str(files / text) if not text.startswith("--") else text for text in model]
    encoder = ["--text-encoder", str(files / "t5.safetensors")]
    sizes = ["--width", "48", "--height", "32", "--frames", "9", "--steps", "2", "--device", "cpu", "--dtype", "fp32"]
    return main(["generate", "cogvideox", *given, *encoder, "--prompt", "a fox", *sizes, "-o", str(output), *more])


def test_generate_makes_a_clip_of_a_sentence(files, tmp_path, capsys):
    target = tmp_path / "clip.mp4"

    assert _generate(files, target) == 0

    info, printed = probe(target), capsys.readouterr()
    assert (info.num_frames, info.width, info.height, info.fps) == (9, 48, 32, 8)
    assert printed.out == f"{target}\n"
    assert "sampling" in printed.err
    assert "decoding" in printed.err


def test_two_devices_and_streaming_are_for_the_asking(files, tmp_path, monkeypatch):
    pipelines, load = [], generate_cogvideox.load_cogvideox
    monkeypatch.setattr(
        generate_cogvideox, "load_cogvideox", lambda *a, **k: pipelines.append(load(*a, **k)) or pipelines[-1]
    )

    assert _generate(files, tmp_path / "clip.mp4") == 0
    assert _generate(files, tmp_path / "clip.mp4", "--device", "cpu,cpu", "--stream") == 0
    assert [len(pipeline.devices) for pipeline in pipelines] == [1, 2]
    assert [pipeline.stream is not None for pipeline in pipelines] == [False, True]


def test_approximations_are_for_the_asking(files, tmp_path, monkeypatch):
    calls, make = [], CogVideoXPipeline.__call__
    monkeypatch.setattr(
        CogVideoXPipeline, "__call__", lambda self, *a, **k: calls.append((self, k)) or make(self, *a, **k)
    )
    faster = ["--reuse", "0.5", "--method", "dpmpp_2m", "--fp8", "weights", "--stream", "--steps", "4"]

    assert _generate(files, tmp_path / "clip.mp4") == 0
    assert _generate(files, tmp_path / "clip.mp4", *faster) == 0
    (exact, usual), (approximate, asked) = calls
    assert (usual["reuse"], usual["method"]) == (None, "ddim")
    assert (asked["reuse"].threshold, asked["method"]) == (0.5, "dpmpp_2m")
    assert {weight.dtype for weight in exact.transformer.parameters()} == {torch.float32}
    assert {weight.dtype for weight in approximate.transformer.parameters()} == {torch.float32, torch.float8_e4m3fn}


@pytest.mark.parametrize("threshold", ["0", "1", "much"])
def test_thresholds_that_cannot_be_are_refused_with_the_option(files, tmp_path, capsys, threshold):
    with pytest.raises(SystemExit) as stop:
        _generate(files, tmp_path / "clip.mp4", "--reuse", threshold)

    assert stop.value.code == 2
    assert f"--reuse: {threshold} is not a number above 0 and below 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    "more",
    [
        ["--negative", "dark"],
        ["--seed", "1"],
        ["--method", "dpmpp_2m_sde"],
        ["--guidance-scale", "2"],
        ["--dynamic-guidance"],
        ["--lora", "lora.safetensors"],
        ["--lora", "lora.safetensors:0.5"],
        ["--decode-tile", "4"],
    ],
    ids=lambda more: more[-1].lstrip("-"),
)
def test_settings_change_the_clip(more, files, tmp_path, capsys):
    more = [str(files / text) if "safetensors" in text else text for text in more]
    assert _generate(files, tmp_path / "usual.webp", "--seed", "0") == 0
    assert _generate(files, tmp_path / "other.webp", *more) == 0

    usual, other = (load_frames(tmp_path / name) for name in ("usual.webp", "other.webp"))
    assert not torch.equal(usual, other)
    if "--lora" in more:
        strength = "0.5" if more[-1].endswith(":0.5") else "1"
        assert f"16 tensors of rank 2 applied to 8 weights at strength {strength}" in capsys.readouterr().err


def test_loras_add_up(files, tmp_path, capsys):
    lora = str(files / "lora.safetensors")

    assert _generate(files, tmp_path / "clip.mp4", "--lora", lora, "--lora", f"{lora}:-1") == 0

    assert capsys.readouterr().err.count("16 tensors of rank 2") == 2


def test_generate_varies_a_video(files, tmp_path):
    first, second = tmp_path / "first.mp4", tmp_path / "second.webm"
    assert _generate(files, first) == 0

    assert _generate(files, second, "--init-video", str(first), "--denoise", "0.5") == 0

    assert probe(second).num_frames == 9


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--frames", "128"], "The nearest are 121 and 129"),
        (["--width", "40"], "The nearest size is 48x32"),
        (["--steps", "0"], "0 steps are not possible: 1 to 1000"),
        (["--denoise", "0.5"], "init_video is missing"),
        (["--denoise", "2"], "above 0 and at most 1"),
        (["--init-video", "none.mp4"], "none.mp4"),
        (["--lora", "none.safetensors"], "none.safetensors"),
        (["--lora", "none.safetensors:0.5"], "none.safetensors"),
        (["--transformer", "none"], "none"),
    ],
)
def test_errors_of_the_user_are_one_sentence_and_status_2(files, tmp_path, capsys, more, words):
    assert _generate(files, tmp_path / "clip.mp4", *more) == 2

    message = capsys.readouterr().err
    assert words in message
    assert "Traceback" not in message
    assert message.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("more", [["--fps", "0"], ["--decode-tile", "0"]])
def test_numbers_that_cannot_be_are_refused_with_the_option(files, tmp_path, capsys, more):
    with pytest.raises(SystemExit) as stop:
        _generate(files, tmp_path / "clip.mp4", *more)

    assert stop.value.code == 2
    assert f"{more[0]}: 0 is not above 0" in capsys.readouterr().err


@pytest.mark.parametrize("more", [["--frames", "10"], ["--width", "47"], ["--steps", "0"], ["--lora", "none"]])
def test_what_can_be_refused_is_refused_before_the_model_is_read(files, tmp_path, capsys, more):
    assert _generate(files, tmp_path / "clip.mp4", "--transformer", "missing", *more) == 2
    assert "missing" not in capsys.readouterr().err


def test_an_unwritable_target_is_refused_before_the_model_is_read(files, tmp_path, capsys):
    assert _generate(files, tmp_path / "nowhere" / "clip.mp4", "--transformer", "missing") == 2
    assert "nowhere" in capsys.readouterr().err
