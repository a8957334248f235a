"""Text tags and sound of video files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

from torch import Tensor

from ..errors import VideoError
from ..whole_file import whole_file
from . import ffmpeg
from .codecs import Container
from .webp_tags import MOST_TAGS

Audio = str | Path | tuple[Tensor, int]  # a file, or waveform [channels, samples] in [-1, 1] and samples per second


def check_metadata(metadata: Mapping[str, str] | None, container: Container, path: Path) -> None:
    """Raise VideoError unless a container can hold tags, and TypeError or ValueError unless it can hold these."""
    if not metadata:
        return
    if not container.has_tags:
        raise VideoError(f"{path.name}: {container.muxer} files cannot hold a workflow or other tags. Use mp4 or webm.")
    if container.muxer == "webp" and (len(metadata) > MOST_TAGS or any(":" in name for name in metadata)):
        raise ValueError(f"webp holds at most {MOST_TAGS} tags, whose names are without colons; not {list(metadata)}")
    for name, text in metadata.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise TypeError(f"metadata maps strings to strings; {name!r} is {type(text).__name__}")
        if not name or "\0" in name + text:
            raise ValueError(f"metadata {name!r}: names must not be empty, nor names or texts hold NUL")
        if text.endswith("\\"):  # ffmpeg then joins the next line, however it is escaped
            raise ValueError(f"metadata {name!r} ends in a backslash, which ffmpeg cannot store")


def tag_input(metadata: Mapping[str, str], folder: Path) -> list[str]:
    """Write tags to a file in `folder`, as they can exceed a command line, and return ffmpeg's arguments to read it.

    Matroska and WebM store names in capitals, with underscores for spaces. VideoError if the disk refuses.
    """
    lines = [";FFMETADATA1", *(f"{_escaped(name)}={_escaped(text)}" for name, text in metadata.items()), ""]
    file = folder / "tags.txt"
    with whole_file(file, VideoError) as temporary:
        temporary.write_bytes("\n".join(lines).encode("utf-8", errors="replace"))  # lone surrogates become "?"
    return ["-f", "ffmetadata", "-i", ffmpeg.file_argument(file)]


def read_tags(path: Path) -> dict[str, str]:
    """All tags of a file, names in lower case: Matroska and WebM capitalise them."""
    arguments = ["-v", "error", *ffmpeg.input_arguments(path), "-f", "ffmetadata", "pipe:1"]
    text = ffmpeg.run(arguments, f"reading the tags of {path.name}").decode("utf-8", errors="replace")
    tags = {}
    for line in re.findall(r"^(?:\\.|[^\\\n])+", text, flags=re.DOTALL | re.MULTILINE):
        if line.startswith("["):  # tags of streams and chapters follow
            break
        parts = re.fullmatch(r"((?:\\.|[^\\=;])+)=(.*)", line, flags=re.DOTALL)
        if parts is not None:
            tags[_unescaped(parts[1]).lower()] = _unescaped(parts[2])
    return tags


def check_audio(audio: Audio | None, container: Container, path: Path) -> None:
    """Raise VideoError unless a container can hold sound and the audio file has some, ValueError for a bad waveform."""
    if audio is None:
        return
    if not container.audio:
        raise VideoError(
            f"{path.name}: {container.muxer} files have no sound. Use mp4 or webm, or leave out the audio."
        )
    if container.audio[0] not in ffmpeg.encoders():
        raise VideoError(f"this computer's ffmpeg cannot write {container.audio[0]} sound. Use another kind of file.")
    if isinstance(audio, tuple):
        _check_waveform(*audio)
        return
    file = Path(audio)
    if not file.is_file():
        raise VideoError(f"the audio file {file} does not exist.")
    arguments = ["-v", "error", *ffmpeg.input_arguments(file), "-map", "0:a:0", "-frames:a", "1", "-f", "null", "-"]
    ffmpeg.run(arguments, f"looking for sound in {file.name}")


def add_audio(
    clip: Path, audio: Audio, length: Fraction, container: Container, tags: list[str], finished: Path
) -> None:
    """Copy a clip's video stream into a new file, with sound.

    Args:
        clip: file without sound.
        length: of the clip in seconds; the sound is cut to it, and may be shorter.
        tags: input arguments from `tag_input`, or empty.
        finished: the new file.
    """
    if isinstance(audio, tuple):
        waveform, sample_rate = audio
        file = clip.with_name("sound.f32le")
        samples = waveform.detach().float().clamp(-1, 1).T.contiguous().cpu().numpy().astype("<f4")
        with whole_file(file, VideoError) as temporary:
            temporary.write_bytes(samples.tobytes())
        kind = ["-f", "f32le", "-ar", str(sample_rate), "-ac", str(waveform.shape[0])]
        sound = [*kind, "-t", f"{float(length):.6f}", "-i", ffmpeg.file_argument(file)]
    else:
        sound = ["-t", f"{float(length):.6f}", *ffmpeg.input_arguments(Path(audio))]
    arguments = [
        *("-v", "error", "-i", ffmpeg.file_argument(clip)),
        *sound,
        *(*tags, *(("-map_metadata", "2") if tags else ())),
        *("-map", "0:v:0", "-map", "1:a:0", "-c:v", "copy", "-c:a", *container.audio, *container.options),
        *("-f", container.muxer, ffmpeg.file_argument(finished)),
    ]
    ffmpeg.run(arguments, f"adding sound to {clip.name}")


def _escaped(text: str) -> str:
    return re.sub(r"([=;#\\\n\r])", r"\\\1", text)


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)


def _check_waveform(waveform: Tensor, sample_rate: int) -> None:
    if waveform.ndim != 2 or not waveform.is_floating_point() or not 1 <= waveform.shape[0] <= 8:
        raise ValueError(f"sound is float [1 to 8 channels, samples], not {waveform.dtype} {list(waveform.shape)}")
    if waveform.shape[1] == 0 or not bool(waveform.isfinite().all()):
        raise VideoError("the sound is empty, or has NaN or Inf. Leave it out, or make it again.")
    if sample_rate < 1:
        raise ValueError(f"{sample_rate=} must be positive, in samples per second")
