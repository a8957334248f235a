"""Plots are written whole or not at all, and say what is missing."""

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from exvideo_core.errors import ExVideoError
from exvideo_core.evaluation.measures import curves
from exvideo_core.evaluation.plots import check_plot, plot_measures, plot_training

LOG = "step,loss,learning_rate,gradient_norm,seconds\n"
HELD_OUT = "step,all,within,beyond\n"


@pytest.fixture(scope="module")
def named():
    generator = torch.Generator().manual_seed(0)
    clips = torch.rand(2, 32, 3, 8, 8, generator=generator) * 2 - 1
    return {
        "$one_.mp4": curves(clips[0], 8),
        "_two.mp4": curves(clips[1] * torch.linspace(1, 0, 32)[:, None, None, None], 8),
    }


@pytest.fixture
def log(tmp_path):
    rows = (f"{step},{1 / (step + 1) + 0.1 * (step % 3)},1e-4,0.5,1.0\n" for step in range(60))
    return _write(tmp_path / "log.csv", LOG + "".join(rows))


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def _height(path):
    with Image.open(path) as picture:
        picture.load()
        assert picture.format == "PNG"
        assert picture.width > 1000
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 20  # something is drawn
        return picture.height


def test_measures_are_drawn_over_an_older_file(named, tmp_path):
    target = _write(tmp_path / "plot.png", "an older file")
    plot_measures(named, target)
    assert _height(target) > 600
    assert list(tmp_path.iterdir()) == [target]


def test_more_clips_than_colours_are_drawn_in_as_large_panels(named, tmp_path):
    plot_measures(named, tmp_path / "few.png")
    plot_measures({f"{i}.mp4": named["_two.mp4"] for i in range(24)}, tmp_path / "many.png")
    assert _height(tmp_path / "many.png") > _height(tmp_path / "few.png") + 50


def test_long_names_are_below_each_other(named, tmp_path):
    plot_measures({f"{i}.mp4": named["_two.mp4"] for i in range(4)}, tmp_path / "short.png")
    plot_measures({f"{i}{60 * 'a'}.mp4": named["_two.mp4"] for i in range(4)}, tmp_path / "long.png")
    assert _height(tmp_path / "long.png") > _height(tmp_path / "short.png") + 50


def test_nothing_to_plot_is_a_mistake_of_the_caller(tmp_path):
    with pytest.raises(ValueError, match="no clip"):
        plot_measures({}, tmp_path / "plot.png")


def test_held_out_losses_are_a_second_panel(log, tmp_path):
    held_out = _write(tmp_path / "held_out.csv", HELD_OUT + "0,1.0,0.9,1.1\n30,0.6,0.6,0.7\n59,0.5,0.5,\n")
    plot_training(log, None, tmp_path / "one.png")
    plot_training(log, held_out, tmp_path / "two.png")
    assert _height(tmp_path / "two.png") > 1.5 * _height(tmp_path / "one.png")


def test_held_out_losses_that_are_not_there_yet_are_left_out(log, tmp_path):
    plot_training(log, _write(tmp_path / "held_out.csv", HELD_OUT), tmp_path / "early.png")
    plot_training(log, None, tmp_path / "one.png")
    assert _height(tmp_path / "early.png") == _height(tmp_path / "one.png")


@pytest.mark.parametrize(
    "rows",
    ["0,0.5,1e-4,1,1\n", "0,nan,,,\n1,inf,,,\n", "0,0.5,1e-4,1,1\n1,nan,1e-4,1,1\n2,0.4"],
    ids=["one", "nan", "cut"],
)
def test_odd_logs_are_drawn(rows, tmp_path):
    plot_training(_write(tmp_path / "log.csv", LOG + rows), None, tmp_path / "plot.png")
    assert _height(tmp_path / "plot.png") > 300


def test_a_loss_that_is_not_finite_does_not_end_the_smoothed_line(tmp_path):
    def strong_blue(rows):
        """Pixels of the smoothed line; that of each step is pale."""
        plot_training(_write(tmp_path / "log.csv", LOG + rows), None, tmp_path / "plot.png")
        with Image.open(tmp_path / "plot.png") as picture:
            return dict(map(reversed, picture.convert("RGB").getcolors(1 << 24))).get((31, 119, 180), 0)

    rows = [f"{step},{1 + 0.1 * (step % 2)},,,\n" for step in range(60)]
    assert strong_blue("".join([*rows[:2], "2,nan,,,\n", "3,inf,,,\n", *rows[4:]])) > 0.9 * strong_blue("".join(rows))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LOG, "holds no steps yet"),
        ("step,value\n1,2\n", "lacks the columns loss; it has step, value"),
        ("", "lacks the columns step, loss; it has none"),
        (LOG + "1,high,,,\n", "something else than numbers"),
    ],
)
def test_unfit_logs_are_refused(text, words, tmp_path):
    with pytest.raises(ExVideoError, match=words):
        plot_training(_write(tmp_path / "log.csv", text), None, tmp_path / "plot.png")
    assert not (tmp_path / "plot.png").exists()


def test_a_missing_log_is_named(tmp_path):
    with pytest.raises(ExVideoError, match=r"none\.csv cannot be read"):
        plot_training(tmp_path / "none.csv", None, tmp_path / "plot.png")


def test_a_failed_plot_leaves_the_older_file(named, tmp_path, monkeypatch):
    def fail(_figure, file, **_):
        Path(file).write_text("half")
        raise OSError(28, "No space left on device")

    target = _write(tmp_path / "plot.png", "an older file")
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    with pytest.raises(ExVideoError, match="No space left on device"):
        plot_measures(named, target)
    assert target.read_text() == "an older file"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("draw", ["check", "measures", "training"])
def test_missing_matplotlib_is_one_sentence(draw, named, log, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    target = tmp_path / "plot.png"
    with pytest.raises(ExVideoError, match=r"the plot needs matplotlib: pip install 'exvideo\[train\]'"):
        {
            "check": lambda: check_plot(target),
            "measures": lambda: plot_measures(named, target),
            "training": lambda: plot_training(log, None, target),
        }[draw]()
    assert not target.exists()


@pytest.mark.parametrize(("name", "words"), [("plot.svg", "has to end in .png"), ("none/plot.png", "does not exist")])
def test_unfit_targets_are_refused_before_the_work(name, words, named, tmp_path):
    for call in (check_plot, lambda path: plot_measures(named, path)):
        with pytest.raises(ExVideoError, match=words):
            call(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_drawing_leaves_matplotlibs_global_state_alone(named, tmp_path):
    sys.modules.pop("matplotlib.pyplot", None)
    plot_measures(named, tmp_path / "plot.png")
    assert "matplotlib.pyplot" not in sys.modules
