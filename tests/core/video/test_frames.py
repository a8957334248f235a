"""Pictures and clips: ranges, layouts, sizes."""

import numpy as np
import pytest
import torch
from PIL import Image

from exvideo_core.errors import VideoError
from exvideo_core.video.frames import (
    cover_crop,
    pixels_to_frames,
    to_pixels,
    to_uint8,
)


def test_eight_bit_pictures_map_as_in_the_reference() -> None:
    values = np.arange(256, dtype=np.uint8)
    image_HWC = np.stack([values, values[::-1], np.roll(values, 7)], axis=-1)[None]
    expected = torch.from_numpy(image_HWC.astype(np.float32) * (2 / 255) - 1).permute(2, 0, 1)

    assert torch.equal(to_pixels(Image.fromarray(image_HWC)), expected)


def test_a_tensor_and_its_picture_have_the_same_pixels() -> None:
    image_HWC = torch.randint(0, 256, (5, 7, 3), dtype=torch.uint8)

    from_picture = to_pixels(Image.fromarray(image_HWC.numpy()))

    torch.testing.assert_close(to_pixels(image_HWC / 255), from_picture, rtol=0, atol=2e-7)


def test_pixels_and_frames_are_inverse() -> None:
    frames = torch.rand(3, 4, 5, 3)

    torch.testing.assert_close(pixels_to_frames(torch.stack([to_pixels(frame) for frame in frames])), frames)


def test_frames_are_clamped() -> None:
    assert pixels_to_frames(torch.tensor([-3.0, 0.0, 3.0]).view(1, 3, 1, 1)).flatten().tolist() == [0, 0.5, 1]


def test_eight_bits_are_truncated_as_in_the_reference() -> None:
    x_TCHW = torch.rand(2, 3, 64, 64) * 2.4 - 1.2
    reference = ((x_TCHW + 1) * 127.5).clip(0, 255).numpy().astype(np.uint8)

    assert np.array_equal(to_uint8(pixels_to_frames(x_TCHW)).permute(0, 3, 1, 2).numpy(), reference)


def test_eight_bit_frames_come_back_exactly() -> None:
    values = torch.arange(256, dtype=torch.uint8)

    assert torch.equal(to_uint8(values / 255), values)


def test_transparency_is_laid_over_black() -> None:
    image = Image.new("RGBA", (2, 2), (200, 100, 50, 0))
    image.putpixel((1, 0), (200, 100, 50, 255))

    pixels = to_pixels(image)

    assert pixels[:, 0, 0].tolist() == [-1, -1, -1]
    torch.testing.assert_close(pixels[:, 0, 1], torch.tensor([200, 100, 50]) * (2 / 255) - 1)


def test_pictures_are_turned_upright() -> None:
    image = Image.new("RGB", (4, 2))
    image.getexif()[0x0112] = 6  # lies on its side

    assert to_pixels(image).shape == (3, 4, 2)
    assert cover_crop(image, 2, 4).size == (2, 4)


def test_16_bit_greys_keep_their_range() -> None:
    image = Image.fromarray(np.array([[0, 128 * 257, 65535]], dtype=np.uint16))

    torch.testing.assert_close(to_pixels(image)[0, 0], torch.tensor([-1, 128 * 2 / 255 - 1, 1]))


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "LA", "1"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    assert to_pixels(Image.new("RGB", (3, 2), "white").convert(mode)).flatten().tolist() == [1.0] * 18


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (torch.zeros(1, 4, 4, 3), ValueError, r"\[H, W, 3\]"),
        (torch.zeros(3, 4, 4), ValueError, r"\[H, W, 3\]"),
        (torch.zeros(4, 4, 3, dtype=torch.uint8), ValueError, "divide by 255"),
        (torch.full((4, 4, 3), 255.0), ValueError, r"\[0, 1\]"),
        (torch.full((4, 4, 3), -1.0), ValueError, r"\[0, 1\]"),
        (torch.full((4, 4, 3), torch.nan), VideoError, "NaN"),
        (Image.new("F", (4, 4)), VideoError, "mode F"),
        ("cat.png", TypeError, "str"),
    ],
)
def test_what_is_no_picture_is_refused(image: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        to_pixels(image)  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize("size", [(64, 32), (32, 64), (48, 48), (200, 100), (7, 91)])
def test_cover_crop_gives_the_size_and_keeps_the_centre(size: tuple[int, int]) -> None:
    width, height = size
    image_HWC = torch.zeros(90, 120, 3)
    image_HWC[40:50, 55:65] = 1  # a square in the middle

    cropped_HWC = cover_crop(image_HWC, width, height)
    picture = np.asarray(cover_crop(Image.fromarray(to_uint8(image_HWC).numpy()), width, height)) / 255

    for result in (cropped_HWC[..., 0].numpy(), picture[..., 0]):
        assert result.shape == (height, width)
        weight = result / result.sum()
        assert abs((weight.sum(0) * np.arange(width)).sum() - (width - 1) / 2) < 0.6
        assert abs((weight.sum(1) * np.arange(height)).sum() - (height - 1) / 2) < 0.6


def test_cover_crop_leaves_fitting_pictures_alone() -> None:
    image_HWC = torch.rand(16, 24, 3)

    assert torch.equal(cover_crop(image_HWC, 24, 16), image_HWC)
    assert torch.equal(cover_crop(image_HWC, 20, 16), image_HWC[:, 2:22])


def test_cover_crop_does_not_alias() -> None:
    noise_HWC = torch.rand(256, 256, 3, generator=torch.Generator().manual_seed(0))  # standard deviation 0.29

    assert cover_crop(noise_HWC, 32, 32).std() < 0.1  # 64 values in one
