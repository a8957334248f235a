"""Frames that are decoded while they are read are those of the whole clip, also when memory runs out midway."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from narrow_cogvideox import build_pipeline as build_cogvideox
from narrow_svd import build_pipeline as build_svd, noise
from torch import Tensor

from exvideo_core.nn import out_of_memory
from exvideo_core.runtime.decoded_frames import DecodedFrames, concatenated
from exvideo_core.video.frames import pixels_to_frames

CPU = torch.device("cpu")


def test_svds_frames_leave_window_by_window() -> None:
    pipe, latents_TCHW, done = build_svd(), noise(19, 4, 8, 6), []
    decoded = pipe.decode(latents_TCHW, lambda *progress: done.append(progress))
    with torch.inference_mode():
        expected = pixels_to_frames(pipe.vae.decode(latents_TCHW / 0.18215))

    frames, windows = [], []
    for frame_HWC in decoded:
        frames.append(frame_HWC)
        windows.append(len(done))
    assert len(decoded) == len(frames) == 19
    assert torch.equal(torch.stack(frames), expected)
    # a span is read while the next window is computed
    assert windows == [1] * 4 + [2] * 4 + [3] * 4 + [4] * 7
    assert torch.equal(decoded.whole(), expected)  # decoded again


def test_cogvideoxs_frames_leave_chunk_by_chunk() -> None:
    pipe, latents_BCTHW, done = build_cogvideox(), noise(1, 16, 5, 4, 6), []
    decoded = pipe.decode(latents_BCTHW, lambda *progress: done.append(progress))
    with torch.inference_mode():
        (expected_CFHW,) = pipe.vae.decode(latents_BCTHW / 0.7)

    frames, chunks = [], []
    for frame_HWC in decoded:
        frames.append(frame_HWC)
        chunks.append(len(done))
    assert len(decoded) == len(frames) == 17
    assert torch.equal(torch.stack(frames), pixels_to_frames(expected_CFHW.transpose(0, 1)))
    assert chunks == [1] * 9 + [2] * 8


@pytest.mark.parametrize("model", ["svd", "cogvideox"])
def test_a_pipeline_can_leave_the_frames_to_decode(model: str) -> None:
    build, given = (build_svd, {"image": torch.rand(64, 64, 3)}) if model == "svd" else (build_cogvideox, {})
    pipe = build()
    if model == "cogvideox":
        given = {"prompt_embeds": noise(1, 5, pipe.transformer.config.text_dim), "guidance_scale": 1}
    given |= {"num_frames": 9, "height": 128, "width": 128, "num_inference_steps": 1}
    whole, latents = pipe(**given), pipe(**given, output_type="latents")

    assert latents.frames.shape == (0, 128, 128, 3)
    assert torch.equal(latents.latents, whole.latents)
    assert torch.equal(pipe.decode(latents.latents).whole(), whole.frames)


def test_out_of_memory_midway_goes_on_with_the_next_frame() -> None:
    sides = []

    def decode(tile: int | None) -> Iterator[Tensor]:
        sides.append(tile)
        frames = torch.arange(10.0) + (0 if tile is None else 100)
        for start, end in [(0, 4), (4, 7), (7, 10)] if tile is None else [(0, 6), (6, 10)]:
            if tile is None and start == 4:
                raise torch.cuda.OutOfMemoryError
            yield frames[start:end].view(-1, 1, 1, 1).expand(-1, 2, 2, 3)

    frames = [float(frame[0, 0, 0]) for frame in DecodedFrames(10, decode, 64, CPU)]

    assert frames == [0, 1, 2, 3, 104, 105, 106, 107, 108, 109]
    assert sides == [None, 32]


def test_out_of_memory_in_the_smallest_tiles_says_what_to_lower() -> None:
    def decode(_: int | None) -> Iterator[Tensor]:
        raise torch.cuda.OutOfMemoryError
        yield

    with pytest.raises(out_of_memory.DeviceMemoryError, match="out of memory while decoding"):
        DecodedFrames(10, decode, 16, CPU).whole()


def test_another_error_midway_is_no_retry() -> None:
    def decode(_: int | None) -> Iterator[Tensor]:
        yield torch.zeros(4, 2, 2, 3)
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        DecodedFrames(10, decode, 64, CPU).whole()


@torch.inference_mode()
def test_chunks_of_cogvideox_are_given_once_when_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    vae, latents_BCTHW, calls = build_cogvideox().vae, noise(1, 16, 7, 4, 6), []
    expected, forward = vae.decode(latents_BCTHW), vae.decoder.forward

    def fails_once(*args: object) -> Tensor:
        calls.append(args[-1])
        if len(calls) == 2:
            raise torch.cuda.OutOfMemoryError
        return forward(*args)

    monkeypatch.setattr(vae.decoder, "forward", fails_once)
    given = vae.chunk_bytes
    spans = list(vae.decode_spans(latents_BCTHW))

    assert [span.shape[2] for span in spans] == [9, 8, 8]
    assert calls == [given, given, *[given // 2] * 3]
    torch.testing.assert_close(concatenated(spans, 25, axis=2), expected)
    assert vae.chunk_bytes == given


def test_joined_spans_are_all_frames() -> None:
    with pytest.raises(AssertionError, match="the spans are all frames"):
        concatenated([torch.zeros(3, 1)], 4)
