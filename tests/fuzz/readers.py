"""The readers under test: each takes the bytes of a file, or an answer, and reads them in every way the project does.

A reading ends in values, or in an ExVideoError whose sentence a person can read; anything else is a finding.
"""

import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from exvideo_core.cli.inspect import inspect
from exvideo_core.errors import ExVideoError
from exvideo_core.families.cogvideox.config import TransformerConfig
from exvideo_core.families.cogvideox.files import COGVIDEOX_VAE
from exvideo_core.families.cogvideox.transformer import CogVideoXTransformer
from exvideo_core.families.svd.training_config import SVDTraining
from exvideo_core.hub.catalog import SOURCES
from exvideo_core.hub.sources import announce
from exvideo_core.hub.web import PassingError, StatusError
from exvideo_core.lora import merge, read_lora, remove_loras
from exvideo_core.registry import training_recipes
from exvideo_core.runtime.resume import SavedRun
from exvideo_core.training.config import read_config
from exvideo_core.training.data.cache import read_cached
from exvideo_core.training.data.index import index_videos
from exvideo_core.training.data.listing import Listed, list_videos
from exvideo_core.training.data.videos import Sampling, examine, last_start, read_clip
from exvideo_core.training.logs import Table
from exvideo_core.training.loop import check_resumable
from exvideo_core.video import load_frames, probe
from exvideo_core.video.frames import cover_crop, to_pixels
from exvideo_core.video.pictures import read_picture
from exvideo_core.weights.preview_colours import read_colours
from exvideo_core.weights.safetensors_files import open_weights

from .answers import answering
from .guard import guarded

LONGEST_MESSAGE = 2000  # characters of an error; a few sentences with names of tensors in them
NARROW = TransformerConfig(width=16, head_dim=8, layers=1, hidden=16, time_dim=8, text_dim=8)


refusals: list[str] = []  # of the last reading


@dataclass(frozen=True)
class Reader:
    """One kind of file.

    Attributes:
        place: writes the bytes of an input into a folder, as a file or several.
        read: reads them there.
        is_writing: whether it may write, into the folder itself.
    """

    place: Callable[[bytes, Path], None]
    read: Callable[[Path], None]
    is_writing: bool = False


def checked(read, *arguments):
    """What a reader gives; None if it refuses, in words for people."""
    try:
        return read(*arguments)
    except ExVideoError as error:
        _said(str(error))
        return None


def _said(text):
    """Note a refusal, which must be in words for people."""
    assert 10 < len(text) <= LONGEST_MESSAGE, f"no sentence for people ({len(text)} characters): {text[:300]}"
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", text), f"control characters: {text!r}"
    refusals.append(text)


def _file(name):
    def place(data, folder):
        (folder / name).write_bytes(data)

    return place


# weights


def read_weights(folder):
    """A checkpoint, an extension, a part of either model, a clip of the training cache, a run that was cut off."""
    path = folder / "model.safetensors"
    text = checked(inspect, path)
    if text and (refusal := re.search(r"^  loads +(no: .+)", text, re.MULTILINE)):
        _said(refusal[1])
    file = checked(open_weights, path)
    if file:
        checked(read_colours, file.notes, file.name, 4)
    noted = len(refusals)  # what follows is for files of one kind, and refuses the others
    if file:
        for name in file:
            assert checked(file.__getitem__, name).shape == file.shapes[name]
    checked(read_cached, path, ("latents", "fps"))
    SavedRun(path, tell=_said).begin("run", torch.zeros(1, 4, 1, 1), 5, {})
    del refusals[noted:]


def read_lora_file(folder):
    """A LoRA, read and merged."""
    if lora := checked(read_lora, folder / "lora.safetensors"):
        checked(merge, _transformer(), lora)
        remove_loras(_transformer())


@cache
def _transformer():
    return CogVideoXTransformer(NARROW)


# several files in one input: a line "=== NAME" before each

_HEAD = re.compile(rb"^=== ([^\n]*)\n", re.MULTILINE)
SHARD = "model-00001-of-00002.safetensors"


def place_folder(data, folder):
    """The files of an input, beside two sound shards; names that no folder shows are left out."""
    _, *parts = _HEAD.split(data)
    for shard in (SHARD, SHARD.replace("00001-of", "00002-of")):
        (folder / shard).write_bytes(_shard(shard))
    for name, text in zip(parts[::2], parts[1::2], strict=True):
        with suppress(OSError, ValueError):  # no name for this system
            plain = name.decode("utf-8")
            if plain.isprintable() and "/" not in plain and plain not in ("", ".", ".."):
                (folder / plain).write_bytes(text)


@cache
def _shard(name):
    from safetensors.torch import save

    return save({f"{name}.weight": torch.zeros(2)})


def read_folder(folder):
    """An index of shards, shards, and a folder of one model."""
    checked(open_weights, folder)
    for path in sorted(folder.iterdir()):
        checked(open_weights, path)


# texts: the first line says of which kind the rest is


RECORDS = ("metadata.json", "metadata.jsonl", "metadata.csv", "index.jsonl", "run.json", "log.csv", *SOURCES)


def place_record(data, folder):
    """A list of videos, a record of a training, or an answer of a hub, under its name."""
    head, _, text = data.partition(b"\n")
    name = head.decode("latin-1")
    if name in RECORDS:
        (folder / name).write_bytes(text)


def read_record(folder):
    """Lists and records of trainings, and what hubs answer."""
    for name in RECORDS:
        if (folder / name).exists():
            _RECORDS[name.partition(".")[0]](folder / name)


def _read_list(path):
    checked(list_videos, path)


def _read_index(path):
    checked(index_videos, [Listed(path=path)], path.parent, Sampling(num_frames=2), 1.0)


def _read_answer(path):
    with answering(path.read_bytes()), suppress(PassingError, StatusError):
        checked(announce, COGVIDEOX_VAE, path.name, 1.0)


def _read_table(path):
    checked(Table, path, ("step", "loss", "seconds"), 3)


_RECORDS = {
    "metadata": _read_list,
    "index": _read_index,
    "run": lambda path: checked(check_resumable, SVDTraining(), path.parent),
    "log": _read_table,
    **dict.fromkeys(SOURCES, _read_answer),
}


# pictures and videos


def read_pictures(folder):
    """A picture, an animation."""
    path = folder / "picture.webp"
    if picture := checked(read_picture, path):
        small = checked(cover_crop, picture, 16, 16)
        pixels = small and checked(to_pixels, small)
        assert pixels is None or pixels.shape == (3, 16, 16)
    checked(probe, path)
    checked(load_frames, path, 1)


def read_videos(folder):
    """A video as ffmpeg reads it, in a process of its own."""
    path = folder / "clip.mp4"
    if checked(probe, path):
        checked(load_frames, path, 1)


def read_training_videos(folder):
    """A video as PyAV reads it for training."""
    path = folder / "clip.mp4"
    if facts := checked(examine, path):
        sampling = Sampling(num_frames=2)
        if last_start(facts, sampling) >= 0:
            checked(read_clip, path, facts, last_start(facts, sampling), sampling, 16, 16)


READERS = {
    "weights": Reader(_file("model.safetensors"), read_weights),
    "lora": Reader(_file("lora.safetensors"), read_lora_file),
    "folders": Reader(place_folder, read_folder),
    "configs": Reader(
        _file("config.yaml"), lambda folder: checked(read_config, folder / "config.yaml", training_recipes())
    ),
    "records": Reader(place_record, read_record, is_writing=True),
    "pictures": Reader(_file("picture.webp"), read_pictures),
    "videos": Reader(_file("clip.mp4"), read_videos),
    "training_videos": Reader(_file("clip.mp4"), read_training_videos),
}


def read(name, data, folder):
    """Give an input to a reader, in a folder that is emptied; fail for whatever no reader may do.

    Returns:
        what it was refused for, in its words.
    """
    refusals.clear()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    reader = READERS[name]
    reader.place(data, folder)
    before = set(folder.iterdir())
    with guarded(writable=folder if reader.is_writing else None):
        reader.read(folder)
    # ffmpeg, in its own process, is not seen by the guard
    assert reader.is_writing or set(folder.iterdir()) == before, "a reader has written files"
    return list(refusals)
