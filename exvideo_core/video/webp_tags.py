"""Tags of WebP files, which ffmpeg does not write: EXIF strings "name:text", as ComfyUI writes them.

Formats: the WebP container specification, and TIFF 6.0 for the EXIF table.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from ..errors import VideoError
from ..whole_file import cannot_write
from .pictures import opened

MOST_TAGS = 8
_MODEL = 0x0110  # EXIF field of ComfyUI's prompt; the others go into the fields before it
_STRING, _HAS_EXIF = 2, 0x08


def add_tags(file: Path, tags: Mapping[str, str]) -> None:
    """Append an EXIF table of tags to a finished file; VideoError if the disk refuses."""
    try:
        content = bytearray(file.read_bytes())
        if content[12:16] != b"VP8X":  # a single picture without the extended header
            with Image.open(file) as image:
                sides = [(side - 1).to_bytes(3, "little") for side in image.size]
            content[12:12] = _chunk(b"VP8X", bytes(4) + b"".join(sides))
        content[20] |= _HAS_EXIF
        content += _chunk(b"EXIF", _exif_table(tags))
        content[4:8] = struct.pack("<I", len(content) - 8)
        file.write_bytes(content)
    except OSError as error:
        raise VideoError(cannot_write(file, error)) from error


def read_tags(path: Path) -> dict[str, str]:
    """Tags of a WebP file, names in lower case; empty without an EXIF table."""
    with opened(path, "a webp file") as image:
        texts = [text for text in image.getexif().values() if isinstance(text, str) and ":" in text]
    named = (text.encode("latin-1").decode("utf-8", errors="replace").split(":", 1) for text in texts)
    return {name.lower(): text for name, text in named}


def _exif_table(tags: Mapping[str, str]) -> bytes:
    names = sorted(tags, key=lambda name: name != "prompt")  # the prompt first
    strings = [f"{name}:{tags[name]}".encode("utf-8", errors="replace") + b"\0" for name in names]
    position = 8 + 2 + 12 * len(strings) + 4
    entries, texts = [], b""
    for i, string in enumerate(strings):
        value = struct.pack("<I", position + len(texts)) if len(string) > 4 else string.ljust(4, b"\0")
        texts += string if len(string) > 4 else b""
        entries.append(struct.pack("<HHI", _MODEL - i, _STRING, len(string)) + value)
    table = struct.pack("<H", len(entries)) + b"".join(reversed(entries)) + bytes(4)  # in ascending order
    return b"II*\0" + struct.pack("<I", 8) + table + texts


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)
