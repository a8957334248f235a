"""The command `exvideo`: what it prints, writes and returns."""

from pathlib import Path

import pytest
import torch
from narrow_svd import reset_extension
from PIL import Image
from safetensors.torch import load_file, save_file

from exvideo_core import SVDPipeline
from exvideo_core.cli import main
from exvideo_core.families.svd import command as generate
from exvideo_core.families.svd.config import ImageEncoderConfig, UNetConfig, VAEConfig
from exvideo_core.families.svd.image_encoder import ImageEncoder
from exvideo_core.families.svd.save import save_extension, save_svd
from exvideo_core.families.svd.unet import SVDUNet
from exvideo_core.families.svd.vae import VAE
from exvideo_core.video import probe


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A narrow random model with an extension to 5 frames, and a picture."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    unet = SVDUNet(UNetConfig(widths=(8, 8, 8, 8), context_dim=8, time_dim=16, id_dim=8, extension_frames=5))
    reset_extension(unet)
    vae = VAE(VAEConfig(widths=(8, 8, 8, 8)))
    encoder = ImageEncoder(
        ImageEncoderConfig(
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            intermediate_size=8,
            patch_size=56,
            projection_dim=8,
        )
    )
    base = {name: weight for name, weight in unet.state_dict().items() if ".extension." not in name}
    save_svd(folder / "svd.safetensors", base, vae.state_dict(), encoder.clip.state_dict())
    save_extension(folder / "extension.safetensors", unet.state_dict())
    Image.new("RGB", (150, 140), (200, 80, 40)).save(folder / "picture.png")
    return folder


def _generate(files: Path, output: Path, *more: str) -> int:
    paths = ["--image", "picture.png", "--checkpoint", "svd.safetensors", "--extension", "extension.safetensors"]
    given = [str(files / text) if not text.startswith("--") else text for text in paths]
    sizes = ["--width", "128", "--height", "128", "--steps", "1", "--device", "cpu", "--dtype", "fp32"]
    return main(["generate", "svd", *given, *sizes, "--output", str(output), *more])


def test_generate_makes_as_many_frames_as_the_extension_knows(files, tmp_path, capsys):
    target = tmp_path / "clip.mp4"

    assert _generate(files, target) == 0

    info = probe(target)
    assert (info.num_frames, info.width, info.height, info.fps) == (5, 128, 128, 30)
    assert str(target) in capsys.readouterr().out


def test_the_file_may_be_of_another_codec_with_more_bits(files, tmp_path, capsys, monkeypatch):
    av, target = pytest.importorskip("av"), tmp_path / "clip.webm"

    assert _generate(files, target, "--codec", "vp9", "--bit-depth", "10", "--quality", "best") == 0
    with av.open(str(target)) as file:
        assert [frame.format.name for frame in file.decode(video=0)] == 5 * ["yuv420p10le"]
    monkeypatch.setattr(generate, "load_svd", None)  # refused before that
    assert _generate(files, tmp_path / "clip.mp4", "--bit-depth", "10") == 2
    assert "h264 is not written in 10 bits" in capsys.readouterr().err


def test_two_devices_and_streaming_are_for_the_asking(files, tmp_path, monkeypatch):
    pipelines, load = [], generate.load_svd
    monkeypatch.setattr(generate, "load_svd", lambda *a, **k: pipelines.append(load(*a, **k)) or pipelines[-1])

    assert _generate(files, tmp_path / "clip.mp4") == 0
    assert _generate(files, tmp_path / "clip.mp4", "--device", "cpu,cpu", "--stream") == 0
    assert [len(pipeline.devices) for pipeline in pipelines] == [1, 2]
    assert [pipeline.stream is not None for pipeline in pipelines] == [False, True]


def test_approximations_are_for_the_asking(files, tmp_path, monkeypatch):
    calls, make = [], SVDPipeline.__call__
    monkeypatch.setattr(SVDPipeline, "__call__", lambda self, *a, **k: calls.append((self, k)) or make(self, *a, **k))
    faster = ["--reuse", "0.5", "--method", "dpmpp_2m", "--fp8", "weights", "--stream", "--steps", "4"]

    assert _generate(files, tmp_path / "clip.mp4") == 0
    assert _generate(files, tmp_path / "clip.mp4", *faster) == 0
    (exact, usual), (approximate, asked) = calls
    assert (usual["reuse"], usual["method"]) == (None, "euler")
    assert (asked["reuse"].threshold, asked["method"]) == (0.5, "dpmpp_2m")
    assert {weight.dtype for weight in exact.unet.parameters()} == {torch.float32}
    assert {weight.dtype for weight in approximate.unet.parameters()} == {torch.float32, torch.float8_e4m3fn}


@pytest.mark.parametrize("threshold", ["0", "1", "much"])
def test_thresholds_that_cannot_be_are_refused_with_the_option(files, tmp_path, capsys, threshold):
    with pytest.raises(SystemExit) as stop:
        _generate(files, tmp_path / "clip.mp4", "--reuse", threshold)

    assert stop.value.code == 2
    assert f"--reuse: {threshold} is not a number above 0 and below 1" in capsys.readouterr().err


def test_generate_varies_a_video_and_holds_keyframes(files, tmp_path):
    first, second = tmp_path / "first.mp4", tmp_path / "second.webm"
    assert _generate(files, first) == 0

    keyframe = f"4={files / 'picture.png'}"
    assert _generate(files, second, "--init-video", str(first), "--denoise", "0.5", "--keyframe", keyframe) == 0

    assert probe(second).num_frames == 5


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--frames", "6"], "6 frames are not possible: 2 to 5"),
        (["--width", "129"], "The nearest size is 128x128"),
        (["--keyframe", "last.png"], "INDEX=PICTURE"),
        (["--keyframe", "7=none.png"], "cannot be read as a picture"),
        (["--denoise", "0.5"], "init_video is missing"),
    ],
)
def test_errors_of_the_user_are_one_sentence_and_status_2(files, tmp_path, capsys, more, words):
    assert _generate(files, tmp_path / "clip.mp4", *more) == 2

    message = capsys.readouterr().err
    assert words in message
    assert "Traceback" not in message
    assert not list(tmp_path.iterdir())


def test_an_unwritable_target_is_refused_before_the_model_is_loaded(files, tmp_path, capsys):
    assert _generate(files / "nowhere", tmp_path / "missing" / "clip.mp4") == 2
    assert "missing" in capsys.readouterr().err


def test_debug_shows_the_traceback(files):
    with pytest.raises(Exception, match="cannot be read"):
        main(["--debug", "generate", "svd", "--image", "none.png", "--checkpoint", "none"])


def test_inspect_tells_what_the_extension_is(files, capsys):
    assert main(["inspect", str(files / "extension.safetensors")]) == 0
    assert "5 frames" in capsys.readouterr().out


def test_inspect_reads_every_value(files, tmp_path, capsys):
    weights = load_file(files / "svd.safetensors")
    name = "model.diffusion_model.middle_block.1.time_stack.0.attn1.to_k.weight"
    weights[name][0] = torch.nan
    save_file(weights, tmp_path / "damaged.safetensors")

    assert (
        main(["inspect", str(files / "svd.safetensors")])
        == main(["inspect", str(tmp_path / "damaged.safetensors")])
        == 0
    )
    whole, damaged = (line for line in capsys.readouterr().out.splitlines() if line.startswith("  values "))
    assert whole.endswith("no NaN or Inf")
    assert f"NaN or Inf in 1 of {len(weights)} tensors (first: {name}, NaN (" in damaged
