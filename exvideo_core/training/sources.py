"""Sources of clips: cut from videos, encoded once and cached, in a new order each epoch; and limits of drawn ones.

Shapes: C channels, H and W pixels.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from ..errors import ExVideoError
from ..runtime.distributed import World
from .data.cache import CachedClip, Encode, cache_clips, plan_clips, read_cached, usable_clips
from .data.index import BAD_FILES_NAME, Index, index_videos
from .data.listing import list_videos
from .data.videos import Sampling
from .randomness import shuffled
from .settings import DataConfig, Training

log = logging.getLogger(__name__)

PROCEDURAL = "procedural"
_VERSION = "1"  # of what `Encode` makes; another one makes all caches invalid
Clip = TypeVar("Clip")
ClipOut = TypeVar("ClipOut", covariant=True)
OnPrepare = Callable[[str, int, int], None]  # what is being prepared, how much of how much


class Source(Protocol[ClipOut]):
    """Clips to train on, and held-out clips for evaluation."""

    num_held_out: int

    def training(self, position: int, generator: torch.Generator) -> ClipOut:
        """The clip at a place of the endless order; what else is random about it comes from the generator."""

    def held_out(self, index: int) -> ClipOut:
        """A clip that is never trained on; always the same."""


class EncodedClips(Generic[Clip]):
    """Clips in files, in a new order each epoch; see `Source`. `clip_of` makes one of the tensors of these `names`."""

    def __init__(
        self,
        files: Sequence[Path],
        config: Training,
        clip_of: Callable[[Mapping[str, Tensor]], Clip],
        names: Sequence[str],
    ) -> None:
        self._files, self._clip_of, self._names, self._seed = files, clip_of, names, config.run.seed
        self.num_held_out = config.data.held_out

    def training(self, position: int, _generator: torch.Generator) -> Clip:
        count = len(self._files) - self.num_held_out
        epoch, place = divmod(position, count)
        return self._read(shuffled(count, self._seed, epoch)[place])

    def held_out(self, index: int) -> Clip:
        return self._read(len(self._files) - self.num_held_out + index)

    def _read(self, number: int) -> Clip:
        return self._clip_of(read_cached(self._files[number], self._names))


def encoding_format(device: torch.device) -> torch.dtype:
    """Dtype that autoencoders and encoders run in: half precision on GPUs."""
    return torch.float16 if device.type == "cuda" else torch.float32


def to_pixels(uint8: Tensor) -> Tensor:
    """Bytes to [-1, 1]."""
    return uint8.float() / 127.5 - 1


def cache_folder(config: Training) -> Path:
    """Where encoded clips are kept."""
    return Path(config.data.cache or Path(config.run.output) / "cache")


def content_mark(parts: Iterable[Mapping[str, Tensor]]) -> str:
    """Hash of weights, whatever file they are in: of the first numbers of every tensor."""
    mark = hashlib.sha256(_VERSION.encode())
    for weights in parts:
        for name in sorted(weights):
            few = weights[name].flatten()[:16].contiguous()
            mark.update(f"{name} {tuple(weights[name].shape)}".encode())
            mark.update(few.view(torch.uint8).numpy().tobytes())
    return mark.hexdigest()


def encode_videos(
    config: Training, world: World, mark: str, build_encode: Callable[[], Encode], on_prepare: OnPrepare | None
) -> list[Path]:
    """Files of all usable clips of the videos that `config.data` names, held-out ones last; the same in every process.

    Args:
        world: the processes, which share the encoding.
        mark: stands for the encoders; clips that others encoded are not used.
        build_encode: called where a clip is not cached yet.
    """
    data, folder, seed = config.data, cache_folder(config), config.run.seed
    sampling = Sampling(num_frames=config.model.num_frames, fps=data.fps, stride=data.stride)

    def report(what: str) -> Callable[[int, int], None] | None:
        return partial(on_prepare, what) if on_prepare else None

    found: Index | None = None
    if world.is_first:  # all others take what it finds
        listed, workers = list_videos(Path(data.source)), os.cpu_count() or 1
        found = index_videos(listed, folder, sampling, data.max_bad_share, report("looking at videos"), workers)
    known: Index = world.gather(found)[0]
    clips = plan_clips(known.videos, folder, sampling, data.width, data.height, data.clips_per_video, seed, mark)
    encoding = report("encoding clips")
    cache_clips(clips, build_encode, known, folder, data.max_bad_share, world.rank, world.size, encoding)
    world.wait()
    usable = usable_clips(clips, known, folder, data.max_bad_share)
    lost = len(known.bad) + len({video.path for video in known.videos} - {clip.video for clip in usable})
    if lost and world.is_first:
        log.warning("%d of %d videos are not used; see %s", lost, known.num_listed, folder / BAD_FILES_NAME)
    return _held_out_last(usable, data.held_out, seed)


def _held_out_last(clips: Sequence[CachedClip], held_out: int, seed: int) -> list[Path]:
    """One clip of each held-out video, after all clips of the others: no video is in both."""
    videos = list(dict.fromkeys(clip.video for clip in clips))
    if held_out >= len(videos):
        raise ExVideoError(
            f"data.held_out is {held_out}, and there are {len(videos)} usable videos: at least one must be left to "
            f"train on. Give more videos, or set data.held_out to {len(videos) - 1} or less."
        )
    kept = dict.fromkeys(videos[place] for place in shuffled(len(videos), seed, -1)[:held_out])
    first = {clip.video: clip.file for clip in reversed(clips)}
    return [*(clip.file for clip in clips if clip.video not in kept), *(first[video] for video in kept)]


def check_procedural(data: DataConfig, side: int, held_out: int) -> None:
    """Raise ExVideoError if a configuration asks drawn clips for another size, or for more to hold out."""
    if (data.width, data.height) != (side, side):
        raise ExVideoError(
            f"data.source procedural has pictures of {side}x{side}, not {data.width}x{data.height}; set data.width and "
            f"data.height to {side}."
        )
    if data.held_out > held_out:
        raise ExVideoError(f"data.held_out is {data.held_out}; of this source at most {held_out} can be held out.")
