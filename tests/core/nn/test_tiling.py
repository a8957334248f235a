"""Windows and the weights that blend them."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from exvideo_core.nn.tiling import Blend, blend_weight, scaled, tile_axes, windows


@pytest.mark.parametrize("size_and_stride", [(8, 4), (8, 8), (128, 32), (5, 2)], ids=str)
@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 12, 13, 40, 128, 129, 200])
def test_windows_cover_every_place_and_stay_inside(length: int, size_and_stride: tuple[int, int]) -> None:
    found = windows(length, *size_and_stride)

    assert {place for start, end in found for place in range(start, end)} == set(range(length))
    assert all(0 < end - start <= size_and_stride[0] for start, end in found)


@pytest.mark.parametrize("length", range(1, 30))
def test_there_are_no_more_windows_than_needed(length: int) -> None:
    *before, _ = windows(length, 8, 4)

    assert all(end < length for _, end in before)


def test_windows_of_the_decoder_are_the_reference_s() -> None:
    assert windows(21, 8, 4) == [(0, 8), (4, 12), (8, 16), (12, 20), (16, 21)]


def test_tiles_are_all_combinations_the_last_axis_fastest() -> None:
    assert list(product(*tile_axes(6, 5, 4))) == [
        ((0, 4), (0, 4)),
        ((0, 4), (3, 5)),
        ((3, 6), (0, 4)),
        ((3, 6), (3, 5)),
    ]


@pytest.mark.parametrize(
    ("span", "proportions"),
    [
        ((0, 8), [8, 7, 6, 5, 4, 3, 2, 1]),
        ((4, 12), [1, 2, 3, 4, 4, 3, 2, 1]),
        ((120, 128), [1, 2, 3, 4, 5, 6, 7, 8]),
    ],
    ids=str,
)
def test_weights_over_time_fall_towards_inner_faces(span: tuple[int, int], proportions: list[int]) -> None:
    weight_THW = blend_weight([span, (0, 512), (0, 512)], [128, 512, 512])

    torch.testing.assert_close(weight_THW[:, 7, 9] * (8 + 512 + 512) / 6, torch.tensor(proportions) * 1.0)


def test_a_window_that_is_everything_has_full_weight() -> None:
    assert torch.equal(blend_weight([(0, 3), (0, 4)], [3, 4]), torch.ones(3, 4))


def test_the_outer_border_keeps_its_weight() -> None:
    weight = blend_weight([(0, 12), (0, 12)], [20, 12])

    assert torch.equal(weight[0], torch.ones(12))
    assert torch.equal(weight[:, 0], weight[:, -1])
    assert weight[-1].max() < 1


@pytest.mark.parametrize("lengths", [(9, 20, 13), (1, 8, 40), (128, 3, 5)], ids=str)
def test_every_place_has_weight(lengths: tuple[int, ...]) -> None:
    total = torch.zeros(lengths)
    for spans in product(*(windows(length, 8, 4) for length in lengths)):
        weight = blend_weight(spans, lengths)
        assert weight.min() > 0
        assert weight.max() <= 1
        total[tuple(slice(*span) for span in spans)] += weight

    assert total.min() > 0


def test_swapping_axes_swaps_the_weights() -> None:
    spans, lengths = [(0, 8), (4, 16)], [16, 20]

    assert torch.equal(blend_weight(spans, lengths).T, blend_weight(spans[::-1], lengths[::-1]))


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_a_blend_is_the_weighted_mean_whether_frames_come_at_once_or_in_chunks(chunk: int) -> None:
    generator = torch.Generator().manual_seed(1)
    tiles = list(product(*tile_axes(13, 16, 8)))
    blend = Blend((2, 5, 13, 16), dims=(2, 3), frames=1, windows=tiles)
    total, weights = torch.zeros(2, 5, 13, 16), torch.zeros(13, 16)
    for window in tiles:
        (h0, h1), (w0, w1) = window
        part = torch.rand(2, 5, h1 - h0, w1 - w0, generator=generator)
        weight = blend_weight(window, (13, 16))
        total[:, :, h0:h1, w0:w1] += part * weight
        weights[h0:h1, w0:w1] += weight
        for start in range(0, 5, chunk):
            blend.add(window, part[:, start : start + chunk].clone(), start)

    assert torch.equal(blend.take(5), total / weights)


def test_frames_can_be_cut_into_windows_too() -> None:
    cells = product(windows(12, 8, 4), windows(1, 8, 6), windows(2, 8, 6))
    places = [scaled(window, (1, 8, 8)) for window in cells]
    blend = Blend((12, 3, 8, 16), dims=(0, 2, 3), frames=0, windows=places)
    for window in places:
        (t0, t1), (h0, h1), (w0, w1) = window
        blend.add(window, torch.arange(t0, t1).view(-1, 1, 1, 1).expand(-1, 3, h1 - h0, w1 - w0).half())

    torch.testing.assert_close(blend.take(12), torch.arange(12.0).view(-1, 1, 1, 1).expand(12, 3, 8, 16))


@pytest.mark.parametrize("tile", [8, 16], ids=["tiles", "whole frames"])
def test_frames_can_be_taken_as_soon_as_no_window_to_come_covers_them(tile: int) -> None:
    places = list(product(windows(21, 8, 4), *tile_axes(13, 16, tile)))
    generator = torch.Generator().manual_seed(1)
    parts = [torch.rand(t1 - t0, 3, h1 - h0, w1 - w0, generator=generator) for (t0, t1), (h0, h1), (w0, w1) in places]
    early, late = (Blend((21, 3, 13, 16), dims=(0, 2, 3), frames=0, windows=places) for _ in range(2))
    spans, most = [], 0
    for window, following, part in zip(places, [*places[1:], None], parts, strict=True):
        for blend in (early, late):
            blend.add(window, part.clone())
        most = max(most, len(early.total))
        end = following[0][0] if following else 21
        if end > early.taken:
            spans.append(early.take(end))

    assert [len(span) for span in spans] == [4, 4, 4, 4, 5]
    assert most == 8
    assert torch.equal(torch.cat(spans), late.take(21))


def test_without_a_tile_size_one_tile_is_the_picture() -> None:
    assert tile_axes(13, 16, None) == [[(0, 13)], [(0, 16)]]
