"""Small videos for the tests of training, each frame as bright as its number."""

import random
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from torch import Tensor

_DARKEST, _STEP = 30, 3  # levels of 8 bits


def write_video(
    path: Path,
    num_frames: int = 24,
    codec: str = "libx264",
    size: tuple[int, int] = (64, 48),
    pts: Sequence[int] | None = None,
    noise: int = 0,
    **options: str,
) -> Path:
    """A video of 30 frames per second, or with these time stamps, in units of 1/30 second."""
    chance = np.random.default_rng(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    container_options = {"movflags": "faststart"} if path.suffix == ".mp4" else {}  # the index first
    with av.open(str(path), "w", options=container_options) as container:
        stream = container.add_stream(codec, rate=30)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.options = {"mbtree": "0", **options}  # with it, x264 varies from call to call
        for i in range(num_frames):
            frame_HWC = _DARKEST + _STEP * i + chance.integers(-noise, noise + 1, (size[1], size[0], 3))
            frame = av.VideoFrame.from_ndarray(frame_HWC.astype(np.uint8), format="rgb24")
            frame.pts = pts[i] if pts else i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def frame_numbers_seen(clip_THWC: Tensor) -> list[int]:
    """Which frames of such a video a clip is made of."""
    brightness = clip_THWC.float().mean((1, 2, 3))
    return [round(number) for number in ((brightness - _DARKEST) / _STEP).tolist()]


def packets(path: Path) -> list[bytes]:
    """The compressed pictures of a video, as they stand in the file."""
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def flip_bits(path: Path, count: int, seed: int) -> Path:
    """Flip bits of the pictures in the middle of a video, where no container's header is."""
    pictures = packets(path)
    middle = pictures[len(pictures) // 4 : -len(pictures) // 4]
    chance = random.Random(seed)
    original = path.read_bytes()
    contents = bytearray(original)
    for _ in range(count):
        picture = chance.choice(middle)
        contents[original.index(picture) + chance.randrange(len(picture))] ^= 1 << chance.randrange(8)
    path.write_bytes(contents)
    return path


def cut(path: Path, share: float) -> Path:
    """Keep only this share of a file."""
    contents = path.read_bytes()
    path.write_bytes(contents[: int(len(contents) * share)])
    return path
