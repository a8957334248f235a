"""What the loaders say in the log about time and memory."""

import logging

import pytest
import torch


@pytest.mark.parametrize(
    ("load", "fixture", "clip"),
    [
        (lambda pack: pack.svd.loading.load_svd, "files", "12 frames of 512x512 in 50 steps"),
        (lambda pack: pack.cogvideox.loading.load_cogvideox, "cog_files", "129 frames of 720x480 in 50 steps"),
    ],
    ids=["svd", "cogvideox"],
)
def test_a_loader_says_what_a_clip_takes(load, fixture, clip, pack, request, caplog):
    with caplog.at_level(logging.INFO):
        load(pack)(*request.getfixturevalue(fixture), torch.float32)
    line = next(record.message for record in caplog.records if record.message.startswith("ExVideo: "))

    assert line.startswith(f"ExVideo: {clip} take about ")
    assert "PFLOP" in line
    assert line.endswith("beside them")


def test_a_device_that_cannot_be_measured_is_no_reason_to_fail(pack, loaded, caplog, monkeypatch):
    def line(*_, **__):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(pack.comfy_bridge.loading, "usual_line", line)
    with caplog.at_level(logging.INFO):
        pack.comfy_bridge.loading.log_estimate(loaded[0])

    assert "no estimate of time and memory (no room)" in caplog.text
