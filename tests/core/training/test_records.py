"""What a training run writes down: tables that a restart continues, and checkpoints that survive a kill."""

from functools import partial

import pytest

from exvideo_core.errors import ExVideoError
from exvideo_core.runtime.distributed import World
from exvideo_core.training.checkpoints import Checkpoints, read_note
from exvideo_core.training.logs import Table

# tables


def lines(path):
    return path.read_text().split("\n")


def test_a_table_goes_on_after_its_step_and_forgets_rows_beyond(tmp_path):
    path = tmp_path / "log.csv"
    table = Table(path, ("step", "loss"), 0)
    for step in (1, 2, 3, 10):
        table.add([step, 0.5])

    Table(path, ("step", "loss"), 2).add([3, 0.25])

    assert lines(path) == ["step,loss", "1,0.5", "2,0.5", "3,0.25", ""]


@pytest.mark.parametrize("rest", ["2", "2,0.2", ""])
def test_a_table_drops_a_row_that_was_cut_off(tmp_path, rest):
    path = tmp_path / "log.csv"
    path.write_text(f"step,loss\n1,0.5\n{rest}")

    Table(path, ("step", "loss"), 2).add([2, 0.25])

    assert lines(path) == ["step,loss", "1,0.5", "2,0.25", ""]


@pytest.mark.parametrize("number", [0.1 + 0.2, 1e-300, 1 / 3, 12345678.901234567])
def test_a_table_keeps_numbers_exactly(tmp_path, number):
    table = Table(tmp_path / "log.csv", ("step", "loss"), 0)

    table.add([1, number])
    Table(table.path, table.columns, 1)

    assert float(lines(table.path)[1].split(",")[1]) == number


# checkpoints


def write(folder, contents="weights"):
    (folder / "weights").write_text(contents)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_checkpoints_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, 2, World())
    for step in (5, 50, 100_000_000):
        checkpoints.save(step, write, {"seed": 3})

    assert names(tmp_path) == ["step_00000050", "step_100000000"]
    assert checkpoints.newest() == tmp_path / "step_100000000"
    assert read_note(checkpoints.newest()) == {"step": 100_000_000, "seed": 3}


def test_a_save_that_breaks_off_leaves_the_checkpoint_before(tmp_path):
    Checkpoints(tmp_path, 2, World()).save(1, write, {})

    def killed(folder):
        write(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Checkpoints(tmp_path, 2, World()).save(2, killed, {})
    (tmp_path / ".old_step_00000000").mkdir()
    (tmp_path / ".DS_Store").write_text("not ours")

    checkpoints = Checkpoints(tmp_path, 2, World())
    assert names(tmp_path) == [".DS_Store", "step_00000001"]
    assert checkpoints.save(2, write, {}) == checkpoints.newest() == tmp_path / "step_00000002"


def test_saving_a_step_again_leaves_it_as_it_is(tmp_path):
    checkpoints = Checkpoints(tmp_path, 2, World())
    checkpoints.save(1, write, {"seed": 3})

    saved = checkpoints.save(1, partial(write, contents="others"), {"seed": 4})

    assert (saved / "weights").read_text() == "weights"
    assert read_note(saved) == {"step": 1, "seed": 3}


@pytest.mark.parametrize("damage", [lambda note: note.unlink(), lambda note: note.write_text('{"step": 1')])
def test_a_damaged_note_is_told_with_what_to_do(tmp_path, damage):
    saved = Checkpoints(tmp_path, 2, World()).save(1, write, {})
    damage(saved / "run.json")

    with pytest.raises(
        ExVideoError,
        match=r"cannot resume from .*_00000001: it is no checkpoint, or damaged .* Delete it to resume",
    ):
        read_note(saved)
