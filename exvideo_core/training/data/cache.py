"""The cache of encoded clips: which clips there are, making the missing ones, and reading them.

A clip's file is named by a hash of everything that decides its contents, so it is either right or missing: a changed
setting invalidates nothing, and processes need not communicate. A clip is usable if its file is complete. A video is
used with all of its clips or, if one cannot be made, not at all.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from ...errors import CheckpointError, ExVideoError, VideoError
from ...weights.safetensors_files import open_file
from ...weights.write import write_weights
from .index import BAD_FILES_NAME, BadFile, Index, IndexedVideo, append_line, bad_file_line, check_share
from .videos import Sampling, clip_fps, last_start, read_clip

# uint8 [T, H, W, 3], the caption and the frames per second to the tensors that are kept of a clip
Encode = Callable[[Tensor, str, float], Mapping[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class CachedClip:
    """One clip: what it is cut from, and where its encoding is or will be."""

    file: Path
    source: IndexedVideo
    start: int  # its first frame
    sampling: Sampling
    width: int
    height: int

    @property
    def video(self) -> Path:
        return self.source.path


def plan_clips(
    videos: Sequence[IndexedVideo],
    folder: Path,
    sampling: Sampling,
    width: int,
    height: int,
    clips_per_video: int,
    seed: int,
    fingerprint: str,
) -> list[CachedClip]:
    """The clips to train on, in the order of the videos: the same on every call and in every process.

    A video too short for `clips_per_video` different beginnings gives some clips twice, so that it counts as much as
    the others. More clips per video leave the earlier ones as they were.

    Args:
        sampling: the one that the index was made with.
        width, height: of the clips, in pixels.
        seed: another one moves the clips.
        fingerprint: stands for all that `Encode` does; another one whenever its weights or its code change.
    """
    clips = []
    for video in videos:
        for start in _starts(video, last_start(video.facts, sampling), clips_per_video, seed):
            frames = [start, sampling.num_frames, sampling.fps, sampling.stride, width, height]
            contents = json.dumps([video.identity, video.caption, *frames, fingerprint])
            name = hashlib.sha256(contents.encode()).hexdigest()[:40]
            file = folder / name[:2] / f"{name}.safetensors"
            clips.append(
                CachedClip(file=file, source=video, start=start, sampling=sampling, width=width, height=height)
            )
    return clips


def cache_clips(
    clips: Sequence[CachedClip],
    build_encode: Callable[[], Encode],
    index: Index,
    folder: Path,
    max_bad_share: float,
    rank: int = 0,
    world: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Make the files that are missing or damaged, of every `world`-th video from the `rank`-th on.

    With several processes, wait for all of them, and then let each take `usable_clips`.

    Args:
        clips: all of `plan_clips`.
        build_encode: called only if something is to be made.
        folder: of the cache; videos that fail are appended to its bad_files.jsonl.
        max_bad_share: ExVideoError if more are bad, those of the index among them.
        progress: called after each clip with the number that this process has made, and its total.
    """
    share = set(islice(dict.fromkeys(clip.source for clip in clips), rank, None, world))
    different = {clip.file: clip for clip in clips if clip.source in share}
    missing = [clip for file, clip in different.items() if not _is_whole(file)]
    encode = build_encode() if missing else None
    bad: dict[Path, BadFile] = {}
    for number, clip in enumerate(missing, start=1):
        if encode and clip.video not in bad:
            try:
                frames = read_clip(clip.video, clip.source.facts, clip.start, clip.sampling, clip.width, clip.height)
            except VideoError as error:
                bad[clip.video] = BadFile(path=clip.video, reason=str(error))
                append_line(folder / BAD_FILES_NAME, bad_file_line(bad[clip.video]))
                check_share([*index.bad, *bad.values()], index.num_listed, max_bad_share, folder / BAD_FILES_NAME)
            else:
                _write(clip, encode, frames)
        if progress:
            progress(number, len(missing))


def usable_clips(clips: Sequence[CachedClip], index: Index, folder: Path, max_bad_share: float) -> list[CachedClip]:
    """The clips of all videos whose every clip is in the cache; ExVideoError if too many videos are bad.

    They are the same in every process once all have finished.
    """
    broken = {clip.source for clip in clips if not _is_whole(clip.file)}
    lost = [BadFile(path=source.path, reason="could not be read for the cache") for source in broken]
    bad = [*index.bad, *sorted(lost, key=lambda file: file.path)]
    check_share(bad, index.num_listed, max_bad_share, folder / BAD_FILES_NAME)
    return [clip for clip in clips if clip.source not in broken]


def read_cached(file: Path, names: Collection[str] = ()) -> dict[str, Tensor]:
    """The tensors of one clip, read into memory; ExVideoError if it is missing or damaged, or lacks one of `names`."""
    try:
        if missing := set(names) - open_file(file).keys():
            raise CheckpointError(f"it has no {' and no '.join(sorted(missing))}")
        return load(file.read_bytes())
    except (OSError, SafetensorError, CheckpointError) as error:
        raise ExVideoError(
            f"the cached clip {file} is missing or damaged ({error}): run the command again to encode it again."
        ) from error


def _starts(video: IndexedVideo, last: int, count: int, seed: int) -> list[int]:
    """First frames from 0 to `last`, evenly drawn without repeating; from the beginning again if they run out.

    The file's name and size choose them, not its folder: a set that has moved gives the same clips.
    """
    chance = random.Random(f"{seed} {video.path.name} {video.size}")
    moved: dict[int, int] = {}  # a shuffled deck (Fisher and Yates) of which only the cards that have moved are kept
    drawn = []
    for i in range(min(count, last + 1)):
        j = chance.randint(i, last)
        drawn.append(moved.get(j, j))
        moved[j] = moved.get(i, i)
    return list(islice(cycle(drawn), count))


def _is_whole(file: Path) -> bool:
    if not file.exists():
        return False
    try:
        open_file(file)
    except CheckpointError:  # empty, cut short, or its header is damaged
        return False
    return True


def _write(clip: CachedClip, encode: Encode, frames: Tensor) -> None:
    fps = clip_fps(clip.source.facts, clip.sampling)
    about = {"video": clip.video.name, "start": str(clip.start), "fps": f"{fps:.6g}", "caption": clip.source.caption}
    write_weights(clip.file, encode(frames, clip.source.caption, fps), about)
