"""Opening untrusted pictures: a few formats, bounded sizes, and one error for everything that fails."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from ..errors import VideoError
from ..files import quoted, regular_size

MOST_PIXELS = 2**26  # of one picture: 8192x8192, a quarter of a GB while it is decoded
# Formats of cameras, browsers and scanners. PIL knows dozens more, some through other programs (EPS: Ghostscript).
_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
# Errors that PIL's readers raise for damaged files.
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
    """Open a picture of a checked size; `what` is the expected file, for the message.

    VideoError if it is missing, no regular file, not a picture, too large, or damaged, also where the block decodes it.
    """
    try:
        regular_size(path)
        with Image.open(path, formats=_known_formats()) as image:
            check_size(image, path)
            yield image
    except _DAMAGE as error:
        raise VideoError(f"{path} cannot be read as a picture ({_reason(error)}). Give {what}.") from error


def read_picture(path: Path) -> Image.Image:
    """Read and decode a picture file; VideoError as in `opened`."""
    with opened(path) as image:
        image.load()
        return image


@contextmanager
def decoding() -> Iterator[None]:
    """Turn errors of decoding an opened picture into VideoErrors."""
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
    """Formats that this PIL was built with."""
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def check_size(image: Image.Image, path: Path) -> None:
    """Raise VideoError if a picture, or the current one of an animation, is too large to decode."""
    if image.width * image.height > MOST_PIXELS:
        raise VideoError(
            f"{path} has {image.width}x{image.height} pixels; at most {MOST_PIXELS:,} are read. Make it smaller."
        )
