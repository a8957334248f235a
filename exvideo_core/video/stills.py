"""Pictures of a clip: a contact sheet of evenly spaced frames, and a poster of the first.

A poster is for file managers, and for tags that the clip's format cannot hold. It is a separate file, because ffmpeg
writes either a cover picture or tags of any name into an mp4 (the flag `use_metadata_tags` replaces the table of the
cover), and WebM has no cover pictures.

Shapes: H and W in pixels, the last axis red, green and blue.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin
from torch import Tensor

from ..errors import VideoError
from ..whole_file import whole_file
from .frames import to_uint8
from .reading import read_video

_LONGEST_SIDE = 256  # of one frame, in pixels
_GAP = 4  # between frames, in pixels


def save_poster(frame_HWC: Tensor, path: str | Path, metadata: Mapping[str, str] | None = None) -> Path:
    """Write one frame, float [H, W, 3] in [0, 1], as a PNG with text chunks; VideoError if it cannot be written."""
    path = Path(path)
    chunks = PngImagePlugin.PngInfo()
    for name, text in (metadata or {}).items():
        chunks.add_text(name, text)
    with whole_file(path, VideoError) as temporary:
        Image.fromarray(to_uint8(frame_HWC).cpu().numpy()).save(temporary, "PNG", pnginfo=chunks)
    return path


def contact_sheet(video_path: str | Path, png_path: str | Path, columns: int = 8, rows: int = 4) -> Path:
    """Draw evenly spaced, numbered frames of a video row by row into a PNG file.

    The first and last frame are included. A clip shorter than the sheet shows each frame once, in fewer rows.

    Raises:
        VideoError: the video cannot be read, or the PNG cannot be written.
        ValueError: columns times rows is less than 2.
    """
    if columns < 1 or rows < 1 or columns * rows < 2:
        raise ValueError(f"{columns=} times {rows=} must be at least 2: the first and the last frame")
    num_frames = sum(1 for _ in read_video(video_path))
    chosen = {round(i) for i in np.linspace(0, num_frames - 1, columns * rows)}
    cells = [_cell(frame_HWC, i) for i, frame_HWC in enumerate(read_video(video_path)) if i in chosen]
    png_path = Path(png_path)
    with whole_file(png_path, VideoError) as temporary:
        _arranged(cells, columns).save(temporary, "PNG")
    return png_path


def _cell(frame_HWC: NDArray[np.uint8], index: int) -> Image.Image:
    picture = Image.fromarray(frame_HWC)
    scale = _LONGEST_SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    picture = picture.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST)
    ImageDraw.Draw(picture).text(
        (5, 3), str(index), fill="white", stroke_fill="black", stroke_width=2, font=ImageFont.load_default(20)
    )
    return picture


def _arranged(cells: list[Image.Image], columns: int) -> Image.Image:
    width, height = cells[0].width + _GAP, cells[0].height + _GAP
    columns = min(columns, len(cells))
    rows = -(-len(cells) // columns)
    sheet = Image.new("RGB", (columns * width + _GAP, rows * height + _GAP), (32, 32, 32))
    for i, cell in enumerate(cells):
        row, column = divmod(i, columns)
        sheet.paste(cell, (column * width + _GAP, row * height + _GAP))
    return sheet
