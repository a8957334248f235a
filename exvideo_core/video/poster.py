"""Posters: a clip's first frame as a PNG, for file managers, and for tags that the clip's format cannot hold.

A poster is a separate file, because ffmpeg writes either a cover picture or tags of any name into an mp4 (the flag
`use_metadata_tags` replaces the table of the cover), and WebM has no cover pictures.

Shapes: H and W in pixels, the last axis red, green and blue.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from PIL import Image, PngImagePlugin
from torch import Tensor

from ..errors import VideoError
from ..whole_file import whole_file
from .frames import to_uint8


def save_poster(frame_HWC: Tensor, path: str | Path, metadata: Mapping[str, str] | None = None) -> Path:
    """Write one frame, float [H, W, 3] in [0, 1], as a PNG with text chunks; whole or not at all.

    Raises:
        VideoError: the file cannot be written.
    """
    path = Path(path)
    chunks = PngImagePlugin.PngInfo()
    for name, text in (metadata or {}).items():
        chunks.add_text(name, text)
    with whole_file(path, VideoError) as temporary:
        Image.fromarray(to_uint8(frame_HWC).cpu().numpy()).save(temporary, "PNG", pnginfo=chunks)
    return path
