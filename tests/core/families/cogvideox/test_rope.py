"""CogVideoX's rotary positions: where tokens lie in time, height and width, and what turning does."""

from __future__ import annotations

import pytest
import torch
from narrow_svd import noise
from torch import Tensor

from exvideo_core.families.cogvideox.rope import apply_rope, crop_region, freqs_cis, rope_angles

TRAINED = (30, 45)  # tokens of 480x720 pixels
HEAD_DIM = 64
TIME, HEIGHT, WIDTH = slice(0, 8), slice(8, 20), slice(20, 32)  # pairs of channels


def places(frames: int, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Time, row and column of each token, read off the pair of each axis that turns by 1 a place."""
    angles = rope_angles(torch.arange(frames), height, width, HEAD_DIM).unflatten(0, (frames, height, width))
    return angles[:, 0, 0, TIME.start], angles[0, :, 0, HEIGHT.start], angles[0, 0, :, WIDTH.start]


@pytest.mark.parametrize(
    ("height", "width", "region"),
    [
        (30, 45, ((0, 0), (30, 45))),
        (60, 90, ((0, 0), (30, 45))),
        (10, 15, ((0, 0), (30, 45))),
        (45, 30, ((0, 12), (30, 32))),
        (32, 32, ((0, 8), (30, 38))),
        (48, 85, ((2, 0), (27, 45))),
        (16, 64, ((10, 0), (21, 45))),
        (30, 44, ((0, 0), (30, 44))),  # half a token rounds to the even side, as in the references
        (30, 42, ((0, 2), (30, 44))),
        (1, 45, ((14, 0), (15, 45))),
        (30, 1, ((0, 22), (30, 23))),
    ],
)
def test_pictures_are_fitted_into_the_trained_field(height: int, width: int, region: object) -> None:
    assert crop_region(height, width) == region


def test_tokens_of_the_trained_size_are_numbered() -> None:
    for place, count in zip(places(3, *TRAINED), (3, *TRAINED), strict=True):
        torch.testing.assert_close(place, torch.arange(float(count)))


@pytest.mark.parametrize("scale", [2, 3])
def test_a_larger_picture_lies_more_densely_in_the_same_field(scale: int) -> None:
    _, rows, columns = places(1, 30 * scale, 45 * scale)

    torch.testing.assert_close(rows, torch.arange(30 * scale) / scale)
    torch.testing.assert_close(columns, torch.arange(45 * scale) / scale)


def test_another_shape_keeps_off_the_field_s_border() -> None:
    _, rows, columns = places(1, 45, 30)

    torch.testing.assert_close(rows, torch.arange(45) * 30 / 45)
    torch.testing.assert_close(columns, 12 + torch.arange(30) * 20 / 30)


def test_an_extended_clip_goes_on_counting() -> None:
    torch.testing.assert_close(places(33, 2, 2)[0], torch.arange(33.0))
    long, short = (rope_angles(torch.arange(frames), 2, 3, HEAD_DIM) for frames in (33, 13))

    assert torch.equal(long[: 13 * 6], short)


def test_frequencies_fall_from_1_towards_a_ten_thousandth_on_each_axis() -> None:
    angles = rope_angles(torch.tensor([1]), *TRAINED, HEAD_DIM).unflatten(0, (*TRAINED,))[1, 1]

    for part in (TIME, HEIGHT, WIDTH):
        count = part.stop - part.start
        torch.testing.assert_close(angles[part], 10000.0 ** (-torch.arange(count) / count))


@pytest.mark.parametrize("head_dim", [16, 32, 64])
def test_a_quarter_of_the_channels_is_for_the_time(head_dim: int) -> None:
    early, late = (rope_angles(torch.tensor([time]), 3, 4, head_dim) for time in (2, 30))

    assert early.shape == (12, head_dim // 2)
    assert bool((early != late)[:, : head_dim // 8].all())
    assert torch.equal(early[:, head_dim // 8 :], late[:, head_dim // 8 :])


def test_frames_may_be_any_of_the_clip() -> None:
    whole = rope_angles(torch.arange(33), 2, 3, HEAD_DIM)
    end = rope_angles(torch.tensor([30, 31, 32]), 2, 3, HEAD_DIM)
    each = rope_angles(torch.tensor([[0, 1, 2], [30, 31, 32]]), 2, 3, HEAD_DIM)

    assert torch.equal(end, whole[30 * 6 :])
    assert torch.equal(each, torch.stack([whole[: 3 * 6], end]))


def rotated(x_BNLD: Tensor, angles_LD: Tensor) -> Tensor:
    return apply_rope(x_BNLD, freqs_cis(angles_LD))


def test_neighbouring_channels_turn_together() -> None:
    x_BNLD = torch.tensor([1.0, 0.0, 0.0, 2.0]).view(1, 1, 1, 4)
    angles_LD = torch.tensor([[torch.pi / 2, torch.pi]])

    torch.testing.assert_close(rotated(x_BNLD, angles_LD).flatten(), torch.tensor([0.0, 1.0, 0.0, -2.0]))


def test_turning_keeps_lengths_and_the_first_token() -> None:
    x_BNLD = noise(2, 3, 3 * 8, HEAD_DIM)
    result = rotated(x_BNLD, rope_angles(torch.arange(3), 2, 4, HEAD_DIM))

    torch.testing.assert_close(result.norm(dim=-1), x_BNLD.norm(dim=-1))
    torch.testing.assert_close(rotated(x_BNLD, torch.zeros(24, 32)), x_BNLD)


def test_products_depend_on_differences_of_time_alone() -> None:
    q, k = noise(1, 1, 1, HEAD_DIM), noise(1, 1, 1, HEAD_DIM, seed=1)

    def product(first: int, second: int) -> float:
        angles = (rope_angles(torch.tensor([time]), 1, 1, HEAD_DIM) for time in (first, second))
        return float((rotated(q, next(angles)) * rotated(k, next(angles))).sum())

    assert product(3, 10) == pytest.approx(product(25, 32), abs=1e-4)
    assert product(3, 10) != pytest.approx(product(3, 11), abs=1e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_turned_in_float32(dtype: torch.dtype) -> None:
    x_BNLD = noise(1, 1, 33, HEAD_DIM).to(dtype)
    angles_LD = rope_angles(torch.arange(33), 1, 1, HEAD_DIM)
    result = rotated(x_BNLD, angles_LD)

    assert result.dtype == dtype
    assert torch.equal(result, rotated(x_BNLD.float(), angles_LD).to(dtype))
