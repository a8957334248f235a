"""Frame and size rules."""

import pytest

from exvideo_core.errors import ClipError
from exvideo_core.families.cogvideox.geometry import GEOMETRY as COGVIDEOX
from exvideo_core.families.svd.geometry import GEOMETRY as SVD
from exvideo_core.video import frames
from exvideo_core.video.geometry import Geometry


@pytest.mark.parametrize("size", [(128, 128), (1024, 576), (512, 136)])
def test_valid_svd_sizes_pass(size: tuple[int, int]) -> None:
    SVD.check_size(*size)


@pytest.mark.parametrize(
    ("size", "nearest"),
    [((1000, 571), "1000x568"), ((64, 512), "128x512"), ((515, 516), "512x520"), ((0, -8), "128x128")],
)
def test_invalid_svd_sizes_name_the_nearest(size: tuple[int, int], nearest: str) -> None:
    with pytest.raises(ClipError, match=f"multiples of 8 and at least 128. The nearest size is {nearest}"):
        SVD.check_size(*size)


def test_invalid_cogvideox_sizes_name_the_nearest() -> None:
    COGVIDEOX.check_size(720, 480)
    with pytest.raises(ClipError, match=r"multiples of 16 .* 720x480"):
        COGVIDEOX.check_size(724, 478)


@pytest.mark.parametrize(("latent_frames", "frames"), [(1, 1), (2, 8), (3, 9), (4, 16), (5, 17), (13, 49), (33, 129)])
def test_an_odd_number_of_latent_frames_has_a_first_that_stands_alone(latent_frames: int, frames: int) -> None:
    assert COGVIDEOX.frames_of(latent_frames) == frames


@pytest.mark.parametrize("num_frames", [9, 17, 49, 129])
def test_valid_clips_come_back_as_long(num_frames: int) -> None:
    COGVIDEOX.check_frames(num_frames)

    assert COGVIDEOX.frames_of(COGVIDEOX.latent_frames(num_frames)) == num_frames
    assert SVD.frames_of(SVD.latent_frames(num_frames)) == num_frames


@pytest.mark.parametrize(
    ("geometry", "num_frames", "longest", "sentence"),
    [
        (COGVIDEOX, 128, None, "CogVideoX makes 8 k + 1 of them, at least 9. The nearest are 121 and 129."),
        (COGVIDEOX, 8, None, "CogVideoX makes 8 k + 1 of them, at least 9. The nearest is 9."),
        (COGVIDEOX, 200, 129, "CogVideoX makes 8 k + 1 of them, at least 9. The nearest is 129."),
        (SVD, 1, None, "2 or more. The nearest is 2."),
        (SVD, 129, 128, "2 to 128, the length of this extension's position table. The nearest is 128."),
    ],
)
def test_invalid_lengths_name_the_nearest(
    geometry: Geometry, num_frames: int, longest: int | None, sentence: str
) -> None:
    with pytest.raises(ClipError, match="frames are not possible") as error:
        geometry.check_frames(num_frames, longest)
    assert str(error.value) == f"{num_frames} frames are not possible: {sentence}"


def test_latents_have_a_cell_for_8x8_pixels() -> None:
    assert SVD.latent_shape(25, 576, 1024) == (25, 72, 128)
    assert COGVIDEOX.latent_shape(129, 480, 720) == (33, 60, 90)
    with pytest.raises(ValueError, match="multiples of 8, not 12 and 16"):
        SVD.check_cells(12, 16)


def test_the_checks_of_earlier_versions_are_at_their_old_path() -> None:
    assert frames.check_cogvideox_frames == COGVIDEOX.check_frames
    assert frames.check_svd_size == SVD.check_size
