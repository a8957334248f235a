"""Context windows: frames keep their places in the whole clip."""

from types import SimpleNamespace

import pytest
import torch
from in_comfyui import Run, relative


def window(index_list, total, anchor=None):
    made = SimpleNamespace(index_list=index_list, total_frames=total, dim=0)
    if anchor is not None:
        made.causal_anchor_index = anchor
    return {"context_window": made}


@pytest.mark.parametrize(
    ("index_list", "total", "anchor", "wanted"),
    [
        ([0, 1, 2, 3], 12, None, [0, 1, 2, 3]),
        ([6, 7, 8, 9], 12, None, [6, 7, 8, 9]),
        ([6, 7, 8, 9], 12, 5, [5, 6, 7, 8, 9]),
        ([0, 2, 4, 6], 12, None, [0, 2, 4, 6]),
        ([10, 11, 0, 1], 12, None, [10, 11, 0, 1]),  # a loop
        ([20, 21, 22, 23], 24, None, [8, 9, 10, 11]),  # past the table: moved to its end
        ([20, 22, 24, 26], 30, None, [5, 7, 9, 11]),
        ([22, 23, 0, 1], 24, None, [8, 9, 10, 11]),  # past the table, and a loop
        ([10, 11, 12, 13], 24, 9, [7, 8, 9, 10, 11]),
    ],
)
def test_frame_ids_of_a_window(pack, index_list, total, anchor, wanted):
    assert pack.svd.model.window_frame_ids(window(index_list, total, anchor), 12) == wanted


def test_plain_svd_counts_anew_in_each_window(pack):
    assert pack.svd.model.window_frame_ids(window([6, 7, 8, 9], 12), None) == [0, 1, 2, 3]


def test_no_window_no_ids(pack):
    assert pack.svd.model.window_frame_ids({}, 12) is None


def test_windows_longer_than_the_table_are_refused(pack):
    with pytest.raises(pack.errors.ClipError, match="context length to 12"):
        pack.svd.model.window_frame_ids(window(list(range(13)), 24), 12)

    with pytest.raises(pack.errors.ClipError, match=r"one of them before each, .* context length to 11"):
        pack.svd.model.window_frame_ids(window(list(range(12, 24)), 24, anchor=11), 12)


def windowed(model, length, overlap):
    """What the node Context Windows (Manual) makes."""
    from comfy_extras.nodes_context_windows import ContextWindowsManualNode

    options = {"context_schedule": "standard_static", "fuse_method": "pyramid", "freenoise": False, "dim": 0}
    options |= {"context_stride": 1, "closed_loop": False}
    return ContextWindowsManualNode.execute(model, length, overlap, **options).result[0]


def seen_ids(monkeypatch, pack):
    ids = []
    forward = pack.svd.model.SVDUNet.forward

    def watch(self, x, timestep, context, ids_embedding, num_frames=None, frame_ids=None, memory=None):
        if not x.is_meta:  # which is a count of its memory
            ids.append(frame_ids)
        return forward(self, x, timestep, context, ids_embedding, num_frames, frame_ids, memory)

    monkeypatch.setattr(pack.svd.model.SVDUNet, "forward", watch)
    return ids


def test_one_window_over_all_frames_changes_nothing(run):
    assert relative(run.sample(windowed(run.model, 6, 2)), run.sample()) <= 1e-5


def test_windows_keep_absolute_places(pack, loaded, monkeypatch):
    run = Run(pack, *loaded, frames=12)
    ids = seen_ids(monkeypatch, pack)

    run.sample(windowed(run.model, 8, 4), steps=1)

    assert {tuple(places[-8:]) for places in ids} == {tuple(range(8)), tuple(range(4, 12))}


def test_clips_longer_than_the_table_with_windows(pack, loaded, monkeypatch):
    run = Run(pack, *loaded, frames=20)
    ids = seen_ids(monkeypatch, pack)

    result = run.sample(windowed(run.model, 8, 4), steps=2)

    assert result.shape == (20, 4, 16, 16)
    assert torch.isfinite(result).all()
    assert max(max(places) for places in ids) == 11
