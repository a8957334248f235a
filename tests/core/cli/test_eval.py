"""`exvideo eval`: the table, the JSON and the plot of real files."""

import json
import math
import sys
from fractions import Fraction

import pytest
import torch
from PIL import Image

from exvideo_core.cli import main
from exvideo_core.video import save_video

FRAMES = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Stripes that wander: as they should, fading, frozen, and losing lines of one pixel; and too few of them."""
    folder = tmp_path_factory.mktemp("videos")
    x = torch.arange(320)
    moving = torch.stack([0.5 + 0.4 * torch.sin((x - 2 * t) * 0.05 * (1 + x / 320)) for t in range(FRAMES)])
    moving = moving[:, None, :, None].expand(-1, 40, -1, 3)
    save_video(moving, folder / "good.mp4", Fraction(30000, 1001))
    save_video(0.5 + (moving - 0.5) * torch.linspace(1, 0.3, FRAMES)[:, None, None, None], folder / "fading.mp4")
    save_video(torch.cat([moving[:12], moving[11:12].expand(12, -1, -1, -1)]), folder / "frozen.gif", 10)
    x = torch.arange(512)
    stripes = [
        0.5 + 0.3 * (x // 32 % 2 - 0.5).roll(2 * t) + 0.2 * (x % 2 - 0.5) * (t < FRAMES / 2) for t in range(FRAMES)
    ]
    save_video(torch.stack(stripes)[:, None, :, None].expand(-1, 8, -1, 3), folder / "soft.mp4")
    save_video(moving[:5], folder / "short.mp4")
    save_video(torch.zeros(6, 16, 16, 3), folder / "black.mp4")
    (folder / "other").mkdir()
    (folder / "other" / "good.mp4").write_bytes((folder / "good.mp4").read_bytes())
    (folder / "notes.mp4").write_text("no video")
    return folder


def _rows(table):
    """The cells of each video, by the names of the columns."""
    header, *lines = [line.split() for line in table.split("\n\n")[0].splitlines()]
    return {line[0]: dict(zip(header, line, strict=True)) for line in lines}


def test_the_table_marks_what_is_suspicious(folder, capsys):
    assert main(["eval", *(str(folder / name) for name in ("good.mp4", "fading.mp4", "frozen.gif", "soft.mp4"))]) == 0

    marked = {
        video: {name for name, cell in row.items() if cell.endswith("!")}
        for video, row in _rows(capsys.readouterr().out).items()
    }
    assert marked["good.mp4"] == set()
    assert marked["fading.mp4"] == {"contrast"}
    assert marked["soft.mp4"] == {"sharpness"}
    assert "freeze" in marked["frozen.gif"]


def test_the_table_explains_its_columns(folder, capsys):
    assert main(["eval", str(folder / "good.mp4")]) == 0

    table, explanations, note = capsys.readouterr().out.strip().split("\n\n")
    columns = table.split()[2:9]
    assert [line.split()[0] for line in explanations.splitlines()] == [*columns, "!"]
    assert "256 pixels" in note


def test_the_json_holds_all_numbers(folder, tmp_path, capsys):
    target, video = tmp_path / "measures.json", folder / "good.mp4"
    assert main(["eval", str(video), "--json", str(target), "--chunk", "8"]) == 0

    (found,) = json.loads(target.read_text(encoding="utf-8"))["videos"]
    measures, chunks = found.pop("measures"), found.pop("chunks")
    assert found == {
        "file": str(video),
        "num_frames": FRAMES,
        "fps": pytest.approx(30000 / 1001),
        "width": 320,
        "height": 40,
        "measured_at": [256, 32],
        "sharpness_at": [320, 40],
    }
    assert (chunks.pop("frames"), chunks.pop("starts")) == (8, [0, 8, 16])
    assert {name: len(values) for name, values in chunks.items()} == dict.fromkeys(
        ("difference", "drift", "contrast", "sharpness"), 3
    )
    row = _rows(capsys.readouterr().out)["good.mp4"]
    assert {name: f"{value:.3f}" for name, value in measures.items()} == {name: row[name] for name in measures}


def test_json_on_stdout_is_alone_there(folder, capsys):
    assert main(["eval", str(folder / "good.mp4"), str(folder / "fading.mp4"), "--json", "-"]) == 0

    videos = json.loads(capsys.readouterr().out)["videos"]
    assert [video["file"] for video in videos] == [str(folder / "good.mp4"), str(folder / "fading.mp4")]


def test_a_black_video_has_finite_numbers(folder, capsys):
    assert main(["eval", str(folder / "black.mp4"), "--json", "-"]) == 0

    (video,) = json.loads(capsys.readouterr().out)["videos"]
    assert all(map(math.isfinite, video["measures"].values()))
    assert video["measures"]["freeze"] == 1


def test_the_plot_is_written(folder, tmp_path):
    target = tmp_path / "plot.png"
    assert main(["eval", str(folder / "good.mp4"), str(folder / "fading.mp4"), "--plot", str(target)]) == 0

    with Image.open(target) as picture:
        assert picture.format == "PNG"
    assert list(tmp_path.iterdir()) == [target]


def test_files_of_one_name_are_told_apart_and_one_file_is_measured_once(folder, capsys):
    same, other = str(folder / "good.mp4"), str(folder / "other" / "good.mp4")
    assert main(["eval", same, other, same]) == 0

    assert list(_rows(capsys.readouterr().out)) == [same, other]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["none.mp4"], "none.mp4 does not exist"),
        (["notes.mp4"], "notes.mp4"),
        (["short.mp4"], "short.mp4 has 5 frames; measuring needs at least 6"),
        (["good.mp4", "short.mp4"], "short.mp4 has 5 frames"),
        (["good.mp4", "--chunk", "1"], "--chunk 1 is too short"),
        (["good.mp4", "--plot", "plot.jpg"], "has to end in .png"),
        (["good.mp4", "--plot", "none/plot.png"], "none does not exist"),
        (["good.mp4", "--json", "none/measures.json"], "none does not exist"),
    ],
)
def test_errors_of_the_user_are_one_sentence_and_status_2(given, words, folder, monkeypatch, capsys):
    before = sorted(folder.rglob("*"))
    monkeypatch.chdir(folder)

    assert main(["eval", *given]) == 2

    printed = capsys.readouterr()
    assert words in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert sorted(folder.rglob("*")) == before


def test_missing_matplotlib_is_said_before_anything_is_read(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)

    assert main(["eval", "none.mp4", "--plot", str(tmp_path / "plot.png")]) == 2

    assert capsys.readouterr().err == "exvideo: the plot needs matplotlib: pip install 'exvideo[train]'\n"


def test_help_explains_the_columns_and_their_limits(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["eval", "--help"])

    assert stop.value.code == 0
    help_text = capsys.readouterr().out
    for words in ("without any network", "--json FILE", "--plot FILE.png", "--chunk N", "(! from 1.5)", "256 pixels"):
        assert words in help_text
