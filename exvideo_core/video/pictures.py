"""Opening pictures that anybody may have made: a few formats, bounded sizes, and one error for all that goes wrong."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from ..errors import VideoError
from ..files import quoted, regular_size

MOST_PIXELS = 2**26  # of one picture: 8192x8192, a quarter of a GB while it is decoded
# What cameras, browsers and scanners write. PIL knows dozens more, some through other programs (EPS: Ghostscript).
_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
# What PIL raises for damaged files, beside its own errors. One of its readers or another makes each of these.
_DAMAGE = (
    OSError,  # also UnidentifiedImageError
    SyntaxError,
    EOFError,
    ValueError,
    ArithmeticError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    struct.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


@contextmanager
def opened(path: Path, what: str = "a PNG, JPEG or WebP file") -> Iterator[Image.Image]:
    """A picture whose size is known to be sound; what fails while it is decoded in this block is a VideoError too.

    Args:
        path: of a regular file.
        what: is expected, for the message.

    Raises:
        VideoError: it is missing, no picture, damaged, or too large.
    """
    try:
        regular_size(path)
        with Image.open(path, formats=_known_formats()) as image:
            check_size(image, path)
            yield image
    except _DAMAGE as error:
        raise VideoError(f"{path} cannot be read as a picture ({_reason(error)}). Give {what}.") from error


def read_picture(path: Path) -> Image.Image:
    """A picture file, decoded.

    Raises:
        VideoError: it is missing, not a picture, damaged, or too large.
    """
    with opened(path) as image:
        image.load()
        return image


@contextmanager
def decoding() -> Iterator[None]:
    """For a picture that somebody else has opened: what fails while it is decoded in this block is a VideoError."""
    try:
        yield
    except _DAMAGE as error:
        raise VideoError(
            f"the picture is damaged ({_reason(error)}). Use another one, or save it again with another program."
        ) from error


def _reason(error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return quoted(reason or str(error)) or type(error).__name__


def _known_formats() -> list[str]:
    """Those that this PIL was built with."""
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def check_size(image: Image.Image, path: Path) -> None:
    """Raise VideoError if a picture is too large to be decoded; each of an animation can grow."""
    if image.width * image.height > MOST_PIXELS:
        raise VideoError(
            f"{path} has {image.width}x{image.height} pixels; at most {MOST_PIXELS:,} are read. Make it smaller."
        )
