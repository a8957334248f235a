"""`exvideo demo`: clips of the embedded models, and each model's own options."""

import pytest
import torch
from PIL import Image

from exvideo_core.cli import main
from exvideo_core.video import load_frames, probe

SHORT = ["--frames", "9", "--steps", "2"]


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def picture(tmp_path):
    Image.linear_gradient("L").convert("RGB").save(tmp_path / "picture.png")
    return str(tmp_path / "picture.png")


@pytest.mark.parametrize("model", [[], ["--model", "svd"]], ids=["unnamed", "named"])
def test_a_picture_becomes_a_clip(model, picture, tmp_path, capsys):
    target = tmp_path / "clip.mp4"

    assert main(["demo", *model, "--image", picture, *SHORT, "--output", str(target)]) == 0

    info = probe(target)
    assert (info.num_frames, info.width, info.height, info.fps) == (9, 128, 128, 30)
    assert capsys.readouterr().out == f"{target}\n"


def test_a_sentence_becomes_a_clip(tmp_path, capsys):
    target = tmp_path / "clip.mp4"

    assert main(["demo", "--model", "cogvideox", *SHORT, "-o", str(target)]) == 0

    info = probe(target)
    assert (info.num_frames, info.width, info.height, info.fps) == (9, 96, 96, 8)
    assert capsys.readouterr().out == f"{target}\n"


def test_the_prompt_decides_what_is_shown(tmp_path):
    grounds = {}
    for ground in ("white", "black"):
        target = tmp_path / f"{ground}.webp"
        prompt = f"a red circle swings on {ground}"
        assert main(["demo", "--model", "cogvideox", "--prompt", prompt, *SHORT, "-o", str(target)]) == 0
        grounds[ground] = float(load_frames(target)[:, :4].mean())

    assert grounds["white"] > grounds["black"] + 0.3


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--image", "none.png"], "none.png cannot be read as a picture"),
        (["--model", "cogvideox", "--frames", "128"], "The nearest are 121 and 129"),
        (["--model", "cogvideox", "--width", "40"], "The nearest size is 48x96"),
        (["--model", "cogvideox", "--denoise", "0.5"], "init_video is missing"),
    ],
)
def test_errors_of_the_user_are_one_sentence_and_status_2(given, words, tmp_path, capsys):
    assert main(["demo", *given, "--output", str(tmp_path / "clip.mp4")]) == 2

    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "required: --image"),
        (["--prompt", "a red circle"], "required: --image"),
        (["--model", "other"], "invalid choice: 'other'"),
        (["--model", "cogvideox", "--image", "a.png"], "unrecognized arguments: --image a.png"),
        (["--model", "svd", "--image", "a.png", "--prompt", "a fox"], "unrecognized arguments: --prompt a fox"),
    ],
)
def test_options_of_another_model_are_refused(given, words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["demo", *given])

    assert stop.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(("model", "own"), [("svd", "--motion-bucket-id"), ("cogvideox", "--guidance-scale")])
def test_help_shows_the_models_own_options(model, own, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["demo", "--model", model, "--help"])

    assert stop.value.code == 0
    assert own in capsys.readouterr().out
