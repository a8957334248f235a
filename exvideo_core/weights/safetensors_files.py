"""Reading weights: safetensors files, their shards and folders.

Tensors are views of the memory-mapped file: nothing is copied, and pages are read on use.
Pickles (.ckpt, .pt, .bin) can run code when opened and are never loaded. The safetensors package validates headers
(every version since 0.4.2). Checked here: repeated names, which it lets pass, and limits, as no header may fill memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import CheckpointError
from ..files import quoted, read_small, regular_size
from .detect import identify
from .formats import SAFETENSORS
from .kind import FileKind

Shape = tuple[int, ...]

# The format allows headers of 100 MB. Checkpoints of SVD have 3,000 tensors and headers of 0.4 MB; metadata of trainers
# and graphs of ComfyUI add a few MB.
_MAX_HEADER = 16_000_000  # bytes
_MOST_TENSORS = 50_000
_MOST_AXES = 8
_LONGEST_NAME = 500  # characters; the longest of any known trainer's have 150
_MOST_SHARDS = 2000
_MAX_INDEX = 16_000_000  # bytes
_SHARD = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})(?P<variant>(?:\.\w+)?)\.safetensors")
_INDEX = re.compile(r".+\.safetensors\.index(\.\w+)?\.json")


hint: Callable[[str], str] = "".format  # how to get the file of that name, if it is published; `registry` sets it


class WeightFile(Mapping[str, Tensor]):
    """Tensors by name of one file, or of all shards of one model, memory-mapped and not yet read.

    Pass it on instead of its path, so that the header is parsed once.
    """

    def __init__(self, path: Path, parts: list[Path]) -> None:
        """Open and check `parts`, in order."""
        self.path, self.name = path, path.name  # of the file or folder that the user chose
        self.shapes: dict[str, Shape] = {}  # of every tensor, from the headers alone
        self.dtypes: dict[str, torch.dtype] = {}
        self.notes: dict[str, str] = {}  # metadata of the files
        self.num_bytes = 0  # on disk
        self._where: dict[str, Any] = {}  # open file of each tensor
        for part in parts:
            self._add(part)

    def _add(self, part: Path) -> None:
        size, text = _header(part)
        entries = _parse(part, text)
        opened = _open(part, entries, size - 8 - len(text))
        if repeated := self.shapes.keys() & entries.keys():
            raise _fault(part, f"repeats {len(repeated)} tensors of its sister shards")
        for name, entry in entries.items():
            shape = tuple(entry["shape"])
            if len(shape) > _MOST_AXES or (len(shape) > 1 and 0 in shape):
                raise _fault(part, f"is damaged: no weight has the shape of {name}")
            self.shapes[name], self.dtypes[name], self._where[name] = shape, SAFETENSORS[entry["dtype"]], opened
        self.notes |= opened.metadata() or {}  # type: ignore[no-untyped-call]
        self.num_bytes += size

    @cached_property
    def identity(self) -> FileKind:
        """The kind of this file, from its names and shapes."""
        return identify(self.shapes)

    def __getitem__(self, name: str) -> Tensor:
        try:
            tensor: Tensor = self._where[name].get_tensor(name)
        except SafetensorError as error:
            raise _fault(self.path, f"is damaged: {error}") from error
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def open_weights(path: Path | WeightFile) -> WeightFile:
    """Open a safetensors file, one shard (all others are opened, too), an index of shards, or a folder of one model.

    A WeightFile is returned as it is. CheckpointError if the file is missing, incomplete, damaged, or not safetensors.
    """
    if isinstance(path, WeightFile):
        return path
    return WeightFile(path, _parts(_weights_of_folder(path) if path.is_dir() else path))


def open_file(path: Path) -> WeightFile:
    """Open one safetensors file, even if it is one of several shards; CheckpointError as from `open_weights`."""
    return WeightFile(path, [path])


# folders and shards


def _weights_of_folder(folder: Path) -> Path:
    """File to load from a folder in diffusers' layout: full precision before fp16, one file before shards."""
    found = [path for path in folder.iterdir() if path.suffix == ".safetensors" or _INDEX.fullmatch(path.name)]
    if not found:
        raise CheckpointError(f"{folder} contains no .safetensors file; choose the file or folder that does.")
    models = sorted({re.split(r"\.|-\d{5}-of-", path.name)[0] for path in found})
    if len(models) > 1:
        raise CheckpointError(f"{folder} contains several models ({quoted(', '.join(models))}); choose one file.")
    # variants have one more suffix: model.safetensors, model.fp16.safetensors, model.safetensors.index.json
    return min(
        found, key=lambda p: (bool(_SHARD.fullmatch(p.name)), p.name.removesuffix(".index.json").count("."), p.name)
    )


def _parts(path: Path) -> list[Path]:
    """The file at `path`, or all shards that it belongs to."""
    if _INDEX.fullmatch(path.name):
        names = _names_in_index(path)
    elif shard := _SHARD.fullmatch(path.name):
        count = int(shard["count"])
        if count > _MOST_SHARDS:
            raise _fault(path, f"says that it is one of {count} shards, and no model has as many")
        names = [f"{shard['stem']}-{i:05}-of-{count:05}{shard['variant']}.safetensors" for i in range(1, count + 1)]
    else:
        return [path]
    parts = [path.parent / name for name in names]
    if missing := [part.name for part in parts if not part.is_file()]:
        raise CheckpointError(
            f"{path.name} belongs to {len(parts)} files, and {len(missing)} of them are missing "
            f"(first: {missing[0]}); download them into the same folder."
        )
    return parts


def _names_in_index(path: Path) -> list[str]:
    try:
        names = sorted({str(name) for name in json.loads(read_small(path, _MAX_INDEX))["weight_map"].values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _fault(path, "is not an index of safetensors shards") from error
    if not names:
        raise _fault(path, "names no shards")
    if outside := [name for name in names if not _is_shard_name(name)]:
        raise CheckpointError(
            f"{path.name} names a file outside its own folder, or none that can be a shard ({outside[0][:80]!a}); do "
            f"not use it."
        )
    return names


def _is_shard_name(name: str) -> bool:
    """Whether this is a plain file name on every system: no folder, drive, stream or device."""
    return bool(re.fullmatch(r'[^/\\:*?"<>|]+\.safetensors', name)) and name.isprintable() and len(name.encode()) <= 255


# the header


_PICKLE = (
    "a pickle (.ckpt, .pt, .bin), which can run code when it is opened and is never loaded here; "
    "get the .safetensors version of it."
)
# First bytes of files that end up in model folders instead of safetensors, and what they are.
_IMPOSTORS = (
    (rb"PK\x03\x04|\x80[\x02-\x05]", _PICKLE),
    (rb"version https://git-lfs", "a git-lfs pointer, not the weights; run `git lfs pull`, or download the file."),
    (rb"GGUF", "a GGUF file; this project reads .safetensors."),
    (rb"(?i)\s*<(!doctype|html|head|\?xml)", "a web page, perhaps a login or licence page; download it again."),
    (rb"[\s\x20-\x7e]{8}", "a text file, perhaps an error message saved in place of the weights; download it again."),
)


# Errors of the safetensors package, as 0.8 and as 0.4 words them.
_UNREADABLE = "is not a safetensors file: its header is not readable"
_DAMAGE = (
    (r"invalid shape|TensorInvalidInfo|[oO]verflow", "is damaged: the size of a tensor contradicts its shape"),
    (r"invalid offset|InvalidOffset", "is damaged: a tensor does not start where the one before ends"),
    (r"", _UNREADABLE),
)


def _fault(path: Path, what: str) -> CheckpointError:
    """The error for a file that is not as its program wrote it; `what` follows its name."""
    return CheckpointError(f"{path.name} {what}; download it again.")


def _header(path: Path) -> tuple[int, bytes]:
    """Size of a safetensors file, and its header: 8 bytes of length, then JSON."""
    try:
        size = regular_size(path)
        with path.open("rb") as file:
            start = file.read(64)
            length = int.from_bytes(start[:8], "little")
            file.seek(8)
            text = file.read(min(length, _MAX_HEADER))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.{hint(path.name)}") from error
    if not start:
        raise _fault(path, "is empty (0 bytes)")
    for pattern, what in _IMPOSTORS:
        if re.match(pattern, start):
            raise CheckpointError(f"{path.name} is {what}")
    if size < 8 or length > _MAX_HEADER:
        raise CheckpointError(f"{path.name} is not a safetensors file; choose a .safetensors file.")
    if length > size - 8:
        raise _fault(path, f"is incomplete: it ends within its header after {size:,} bytes")
    return size, text


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    """Parse the header into entries by tensor; checks their names, number and dtypes."""
    try:
        entries: dict[str, Any] = json.loads(text.decode("utf-8"), object_pairs_hook=_without_repetition)
        entries.pop("__metadata__", None)
        unknown = [name for name, entry in entries.items() if entry["dtype"] not in SAFETENSORS]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _fault(path, _UNREADABLE) from error
    if len(entries) > _MOST_TENSORS:
        raise _fault(path, f"names {len(entries):,} tensors, and no model has more than {_MOST_TENSORS:,}")
    if strange := [name for name in entries if len(name) > _LONGEST_NAME or not name.isprintable()]:
        first = f"(first: {strange[0][:40]!a})"
        raise _fault(path, f"is damaged: {len(strange)} of its tensors have names that no program writes {first}")
    if unknown:
        raise CheckpointError(
            f"{path.name} stores {unknown[0]} as {quoted(str(entries[unknown[0]]['dtype']), 20)}, a dtype this project "
            f"does not read; get the fp16, bf16, fp32 or fp8 version."
        )
    return entries


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object without repeated names, of which readers take different values."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("it repeats a name")
    return result


def _open(path: Path, entries: Mapping[str, Any], num_bytes: int) -> safe_open:
    """Open the file with the safetensors package, which validates the entries; `num_bytes` follow the header."""
    try:
        return safe_open(path, framework="pt", device="cpu")
    except SafetensorError as error:
        raise _fault(path, _damage(str(error), entries, num_bytes)) from error
    except OSError as error:
        raise _fault(path, f"is damaged: {error}") from error
    except RuntimeError as error:  # PyTorch's, on systems that do not overcommit memory
        raise CheckpointError(
            f"{path.name} cannot be mapped into memory ({quoted(str(error))}). Close other programs, or let the system "
            f"have more virtual memory."
        ) from error


def _damage(said: str, entries: Mapping[str, Any], num_bytes: int) -> str:
    """Translate what the safetensors package said."""
    if not re.search("not fully covered|MetadataIncompleteBuffer", said):
        return next(words for pattern, words in _DAMAGE if re.search(pattern, said))
    end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)  # the rest is valid
    if num_bytes < end:
        return f"is incomplete: {num_bytes:,} of its {end:,} bytes of weights are there"
    return f"is damaged: {num_bytes - end:,} bytes follow its last tensor"
