"""Containers and codecs, and ffmpeg's arguments for each.

The file's suffix chooses the container; the codec is named, or the container's first. Nothing here runs ffmpeg: the
tables are plain data, so that a program can fill its menus from them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from ..errors import VideoError

Quality = str | float  # one of QUALITIES, or a number on the codec's own scale

QUALITIES = ("low", "medium", "high", "best")
DEFAULT_QUALITY = "high"
BIT_DEPTHS = (8, 10)

# Convert and tag: without tags, players guess the matrix by the picture's size. The accuracy flags keep swscale off its
# fast paths, which shift saturated colours by a few levels.
_BT709 = (
    "scale=out_color_matrix=bt709:out_range=tv:flags=bicubic+accurate_rnd+full_chroma_int,"
    "format={pixel_format},"
    "setparams=range=tv:color_primaries=bt709:color_trc=bt709:colorspace=bt709"
)

_NTSC_ROUNDING = 0.0045  # frames per second: 23.98 is a little less away from 24000/1001


@dataclass(frozen=True, kw_only=True)
class Codec:
    """A codec and its ffmpeg arguments."""

    encoders: dict[str, tuple[str, ...]]  # ffmpeg's encoders and their arguments; the first available is used
    pixel_formats: Mapping[int, str]  # by bit depth; the lowest is the default
    only_8_because: str = ""  # reason in the error message about 10 bits
    quality_option: str = "-crf"
    quality_words: tuple[float, float, float, float]  # the numbers of QUALITIES
    quality_range: tuple[float, float]
    is_yuv: bool = True  # BT.709 in limited range; the other codecs take RGB
    even_size: tuple[bool, bool] = (True, True)  # width, height: an odd one is padded by a copy of the last pixel
    max_fps: int = 1000

    def arguments(self, encoder: str, quality: float, bit_depth: int) -> list[str]:
        """ffmpeg's output arguments, without the file; the quality is on the codec's own scale."""
        pixel_format = self.pixel_formats[bit_depth]
        pixels = ["-vf", _BT709.format(pixel_format=pixel_format)] if self.is_yuv else ["-pix_fmt", pixel_format]
        return [*pixels, "-c:v", encoder, *self.encoders[encoder], self.quality_option, f"{quality:g}"]

    def quality_number(self, quality: Quality | None) -> float:
        """Quality on the codec's own scale, None is DEFAULT_QUALITY; VideoError if it is no word or number of it."""
        quality = DEFAULT_QUALITY if quality is None else quality
        if isinstance(quality, str):
            if quality in QUALITIES:
                return self.quality_words[QUALITIES.index(quality)]
        elif self.quality_range[0] <= quality <= self.quality_range[1]:
            return quality
        low, high = self.quality_range
        raise VideoError(
            f"quality {quality!r} is not known: use {', '.join(QUALITIES)}, or a number from {low:g} to {high:g} "
            f"({self.quality_option.lstrip('-')})."
        )


@dataclass(frozen=True, kw_only=True)
class Container:
    """A container format: the codecs, sound and tags of files with one suffix."""

    muxer: str
    codecs: tuple[str, ...]  # the first is the default
    audio: tuple[str, ...] = ()  # encoder and bitrate; empty where there is no sound
    options: tuple[str, ...] = ()  # of the finished file
    has_tags: bool = False


_AAC = ("aac", "-b:a", "192k")
_OPUS = ("libopus", "-b:a", "160k")
_MOVFLAGS = ("-movflags", "+faststart+use_metadata_tags")  # index first for streaming; tags of any name for ComfyUI

CONTAINERS = {
    ".mp4": Container(muxer="mp4", codecs=("h264", "h265", "av1"), audio=_AAC, options=_MOVFLAGS, has_tags=True),
    ".mov": Container(muxer="mov", codecs=("prores", "h264", "h265"), audio=_AAC, options=_MOVFLAGS, has_tags=True),
    ".mkv": Container(muxer="matroska", codecs=("h264", "h265", "vp9", "av1"), audio=_OPUS, has_tags=True),
    ".webm": Container(muxer="webm", codecs=("vp9", "av1"), audio=_OPUS, has_tags=True),
    ".gif": Container(muxer="gif", codecs=("gif",), options=("-loop", "0")),
    ".webp": Container(muxer="webp", codecs=("webp",), options=("-loop", "0"), has_tags=True),
}

_YUV420 = {8: "yuv420p", 10: "yuv420p10le"}  # 4:4:4 would keep more colour but not play in browsers and on phones

CODECS = {
    "h264": Codec(
        encoders={"libx264": ("-preset", "medium")},
        pixel_formats={8: "yuv420p"},
        only_8_because="hardly any browser, phone or television would play it",
        quality_words=(28, 23, 17, 12),
        quality_range=(0, 51),
    ),
    "h265": Codec(
        # hvc1 instead of ffmpeg's hev1: Apple's players open nothing else
        encoders={"libx265": ("-preset", "medium", "-tag:v", "hvc1", "-x265-params", "log-level=error")},
        pixel_formats=_YUV420,
        quality_words=(30, 25, 20, 14),
        quality_range=(0, 51),
    ),
    "vp9": Codec(
        encoders={"libvpx-vp9": ("-b:v", "0", "-deadline", "good", "-cpu-used", "4", "-row-mt", "1")},
        pixel_formats=_YUV420,
        quality_words=(42, 34, 24, 15),
        quality_range=(0, 63),
    ),
    "av1": Codec(
        encoders={
            "libsvtav1": ("-preset", "8"),
            "libaom-av1": ("-b:v", "0", "-cpu-used", "6", "-row-mt", "1"),
        },
        pixel_formats=_YUV420,
        quality_words=(45, 35, 24, 15),
        quality_range=(0, 63),
    ),
    "prores": Codec(
        encoders={"prores_ks": ("-vendor", "apl0")},
        pixel_formats={10: "yuv422p10le"},
        quality_option="-profile:v",  # proxy, LT, standard, HQ
        quality_words=(0, 2, 3, 3),
        quality_range=(0, 3),
        even_size=(True, False),
    ),
    "gif": Codec(
        encoders={"gif": ()},
        pixel_formats={8: "bgr0"},  # of the lossless clip from which the palette is made
        only_8_because="it has 256 colours",
        quality_option="colours",
        quality_words=(32, 96, 256, 256),
        quality_range=(4, 256),
        is_yuv=False,
        even_size=(False, False),
        max_fps=50,  # browsers slow anything faster down to 10 frames per second
    ),
    "webp": Codec(
        encoders={"libwebp_anim": ()},
        pixel_formats={8: "bgra"},  # libwebp converts, with the matrix that decoders expect
        only_8_because="the format has no more than 8",
        quality_option="-quality",
        quality_words=(50, 75, 90, 98),
        quality_range=(0, 100),
        is_yuv=False,
        even_size=(False, False),
        max_fps=100,
    ),
}


def choose(path: Path, codec: str | None = None) -> tuple[Container, str]:
    """The container for a file's suffix, and the name of the codec; VideoError if they do not go together."""
    suffix = path.suffix.lower()
    if suffix not in CONTAINERS:
        raise VideoError(f"{path.name}: the kind of file is not known. Valid endings: {', '.join(CONTAINERS)}.")
    container = CONTAINERS[suffix]
    if codec is None:
        return container, container.codecs[0]
    if codec not in CODECS:
        raise VideoError(f"codec {codec!r} is not known. Valid codecs: {', '.join(CODECS)}.")
    if codec not in container.codecs:
        fitting = [ending for ending, other in CONTAINERS.items() if codec in other.codecs]
        raise VideoError(
            f"{codec} does not go into {suffix} files. Use a name that ends in {' or '.join(fitting)}, "
            f"or for {suffix} one of: {', '.join(container.codecs)}."
        )
    return container, codec


def pick_encoder(codec: str, available: Collection[str]) -> str:
    """The first of the codec's encoders in this ffmpeg; VideoError if it has none."""
    for encoder in CODECS[codec].encoders:
        if encoder in available:
            return encoder
    raise VideoError(
        f"this computer's ffmpeg cannot write {codec}: it lacks {' and '.join(CODECS[codec].encoders)}. "
        "Choose another codec, or install imageio-ffmpeg again."
    )


def choose_bit_depth(codec: str, bit_depth: int | None) -> int:
    """Bits per colour in the file, None is the most compatible; VideoError if the codec cannot, or should not."""
    possible = CODECS[codec].pixel_formats
    if bit_depth is None:
        return min(possible)
    if bit_depth in possible:
        return bit_depth
    if bit_depth not in BIT_DEPTHS:
        raise VideoError(f"{bit_depth} bits are not possible: choose 8 or 10.")
    if bit_depth == 8:
        raise VideoError(f"{codec} always has 10 bits. Leave the bit depth to auto, or choose another codec.")
    deep = ", ".join(name for name, other in CODECS.items() if 10 in other.pixel_formats)
    raise VideoError(f"{codec} is not written in 10 bits: {CODECS[codec].only_8_because}. Choose {deep}, or 8 bits.")


def frame_rate(fps: float | Fraction, codec: str) -> Fraction:
    """Frames per second as an exact fraction.

    Rounded NTSC rates become exact, else sound drifts by a frame in an hour: 23.98 and 23.976 mean 24000/1001, 29.97
    means 30000/1001, 59.94 means 60000/1001. A Fraction stays as it is. VideoError if it is not a positive number, or
    more than players of this codec show.
    """
    limit = CODECS[codec].max_fps
    if not 0 < fps <= limit:  # also refuses NaN
        raise VideoError(
            f"{fps} frames per second are not possible in {codec}: choose more than 0 and at most {limit}."
        )
    if isinstance(fps, float):
        ntsc = Fraction(round(fps * 1.001) * 1000, 1001)
        if abs(fps - ntsc) < _NTSC_ROUNDING and fps != round(fps):
            return ntsc
    return Fraction(fps).limit_denominator(100_000)
