"""Reading weights: safetensors files and the folders and shards they come in.

The tensors are views of the memory-mapped file: nothing is copied, and pages are read when they are used.
Pickles (.ckpt, .pt, .bin) can run code when opened and are never loaded.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import CheckpointError
from ..files import quoted, read_small, regular_size

Shape = tuple[int, ...]

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
# The format allows headers of 100 MB. Whole checkpoints of SVD have 3,000 tensors and 0.4 MB; notes of trainers and
# graphs of ComfyUI add a few MB. What is beyond this would only fill memory.
_MAX_HEADER = 16_000_000  # bytes
_MOST_TENSORS = 50_000
_MOST_AXES = 8
_LONGEST_NAME = 500  # characters; the longest of any known trainer's have 150
_MOST_SHARDS = 2000
_MAX_INDEX = 16_000_000  # bytes
_SHARD = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})(?P<variant>(?:\.\w+)?)\.safetensors")
_INDEX = re.compile(r".+\.safetensors\.index(\.\w+)?\.json")


_hint: Callable[[str], str] = "".format  # how to get the file of that name


def ask(hint: Callable[[str], str]) -> None:
    """Set what the error about a missing file says of its name, where it is a published one."""
    global _hint
    _hint = hint


class WeightFile(Mapping[str, Tensor]):
    """Named tensors of one file, or of all shards of one model, mapped into memory and not yet read.

    Attributes:
        path: the file or folder the user named.
        shapes, dtypes: of every tensor, from the headers alone.
        num_bytes: size on disk.
    """

    def __init__(self, path: Path, parts: list[Path]) -> None:
        """Open and check `parts`, in order; `path` is what messages call them."""
        self.path = path
        self.shapes: dict[str, Shape] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        self.num_bytes = 0
        self._where: dict[str, Any] = {}  # the open file each tensor is in
        for part in parts:
            header = read_header(part)
            if repeated := self.shapes.keys() & header.keys():
                raise CheckpointError(f"{part.name} repeats {len(repeated)} tensors of its sister shards; {_AGAIN}")
            self.shapes |= {name: entry.shape for name, entry in header.items()}
            self.dtypes |= {name: entry.dtype for name, entry in header.items()}
            self._where |= dict.fromkeys(header, _open(part))
            self.num_bytes += part.stat().st_size

    @property
    def name(self) -> str:
        """What messages call this file."""
        return self.path.name

    def __getitem__(self, name: str) -> Tensor:
        try:
            tensor: Tensor = self._where[name].get_tensor(name)
        except SafetensorError as error:
            raise CheckpointError(f"{self.name} is damaged: {error}; {_AGAIN}") from error
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def open_weights(path: Path) -> WeightFile:
    """Open a safetensors file, one shard of several (its sisters come with it), an index, or a folder of one model.

    Raises:
        CheckpointError: the file is missing, incomplete, damaged, or not safetensors; the sentence says which.
    """
    if path.is_dir():
        return WeightFile(path, _parts(_weights_of_folder(path)))
    return WeightFile(path, _parts(path))


def read_notes(path: Path) -> dict[str, str]:
    """What programs have noted in a safetensors file beside its tensors.

    Raises:
        CheckpointError: as `open_weights`.
    """
    read_header(path)  # whose limits are narrower
    notes: dict[str, str] | None = _open(path).metadata()  # type: ignore[no-untyped-call]
    return notes or {}


def _open(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path.name} is damaged: {error}; {_AGAIN}") from error
    except RuntimeError as error:  # PyTorch's, of a system that promises no more memory than it has
        raise CheckpointError(
            f"{path.name} cannot be mapped into memory ({quoted(str(error))}). Close other programs, or let the system "
            f"have more virtual memory."
        ) from error


# folders and shards


def _weights_of_folder(folder: Path) -> Path:
    """The file that stands for a folder in diffusers' layout: full precision before fp16, whole before sharded."""
    found = [path for path in folder.iterdir() if path.suffix == ".safetensors" or _INDEX.fullmatch(path.name)]
    if not found:
        raise CheckpointError(f"{folder} contains no .safetensors file; choose the file or folder that does.")
    models = sorted({re.split(r"\.|-\d{5}-of-", path.name)[0] for path in found})
    if len(models) > 1:
        raise CheckpointError(f"{folder} contains several models ({quoted(', '.join(models))}); choose one file.")
    # a variant adds a part to the name: model.safetensors, model.fp16.safetensors, model.safetensors.index.json
    return min(
        found, key=lambda p: (bool(_SHARD.fullmatch(p.name)), p.name.removesuffix(".index.json").count("."), p.name)
    )


def _parts(path: Path) -> list[Path]:
    """All the files that `path` stands for."""
    if _INDEX.fullmatch(path.name):
        names = _names_in_index(path)
    elif shard := _SHARD.fullmatch(path.name):
        count = int(shard["count"])
        if count > _MOST_SHARDS:
            raise CheckpointError(
                f"{path.name} says that it is one of {count}, and no model has as many parts; {_AGAIN}"
            )
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
        raise CheckpointError(f"{path.name} is not an index of safetensors shards; {_AGAIN}") from error
    if not names:
        raise CheckpointError(f"{path.name} names no shards; {_AGAIN}")
    if outside := [name for name in names if not _is_shard_name(name)]:
        raise CheckpointError(
            f"{path.name} names a file outside its own folder, or none that can be a shard ({outside[0][:80]!a}); do "
            f"not use it."
        )
    return names


def _is_shard_name(name: str) -> bool:
    """Whether it is a plain file name, on every system: no folder, drive, stream or device."""
    return bool(re.fullmatch(r'[^/\\:*?"<>|]+\.safetensors', name)) and name.isprintable() and len(name.encode()) <= 255


# the header


@dataclass(frozen=True)
class Entry:
    """What a header says about one tensor; begin and end are bytes from the end of the header."""

    dtype: torch.dtype
    shape: Shape
    begin: int
    end: int


_AGAIN = "download it again."
_PICKLE = (
    "is a pickle (.ckpt, .pt, .bin), which can run code when it is opened and is never loaded here; "
    "get the .safetensors version of it."
)
# First bytes of what ends up in a model folder in place of safetensors, and what to say about it.
_IMPOSTORS = (
    (rb"PK\x03\x04|\x80[\x02-\x05]", _PICKLE),
    (rb"version https://git-lfs", "is a git-lfs pointer, not the weights; run `git lfs pull`, or download the file."),
    (rb"GGUF", "is a GGUF file; this project reads .safetensors."),
    (rb"(?i)\s*<(!doctype|html|head|\?xml)", "is a web page, perhaps a login or licence page; download it again."),
    (
        rb"[\s\x20-\x7e]{8}",
        "is a text file, perhaps an error message saved in place of the weights; download it again.",
    ),
)


def read_header(path: Path) -> dict[str, Entry]:
    """Read and check the header of one safetensors file: 8 bytes of length, JSON, then the tensors without gaps."""
    try:
        size = regular_size(path)
        with path.open("rb") as file:
            start = file.read(64)
            length = int.from_bytes(start[:8], "little")
            _check_start(path, start, size, length)
            file.seek(8)
            text = file.read(length)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.{_hint(path.name)}") from error
    header = _parse(path, text)
    _check_extent(path, header, size - 8 - length)
    return header


def _check_start(path: Path, start: bytes, size: int, length: int) -> None:
    if not start:
        raise CheckpointError(f"{path.name} is empty (0 bytes); {_AGAIN}")
    for pattern, sentence in _IMPOSTORS:
        if re.match(pattern, start):
            raise CheckpointError(f"{path.name} {sentence}")
    if size < 8 or length > _MAX_HEADER:
        raise CheckpointError(f"{path.name} is not a safetensors file; choose a .safetensors file.")
    if length > size - 8:
        raise CheckpointError(f"{path.name} is incomplete: it ends within its header after {size:,} bytes; {_AGAIN}")


def _parse(path: Path, text: bytes) -> dict[str, Entry]:
    try:
        entries = json.loads(text.decode("utf-8"), object_pairs_hook=_without_repetition)
        entries.pop("__metadata__", None)
        _check_names(path, entries)
        return {name: _entry(path, name, entry) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path.name} is not a safetensors file: its header is not readable; {_AGAIN}") from error


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object of different names: of a repeated one, another reader may take the other value."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("it repeats a name")
    return result


def _check_names(path: Path, names: Collection[str]) -> None:
    if len(names) > _MOST_TENSORS:
        raise CheckpointError(
            f"{path.name} names {len(names):,} tensors, and no model has more than {_MOST_TENSORS:,}; {_AGAIN}"
        )
    if strange := [name for name in names if len(name) > _LONGEST_NAME or not name.isprintable()]:
        raise CheckpointError(
            f"{path.name} is damaged: {len(strange)} of its tensors have names that no program writes "
            f"(first: {strange[0][:40]!a}); {_AGAIN}"
        )


def _entry(path: Path, name: str, entry: dict[str, Any]) -> Entry:
    if entry["dtype"] not in _DTYPES:
        raise CheckpointError(
            f"{path.name} stores {name} as {quoted(str(entry['dtype']), 20)}, a number format this project does not "
            f"read; get the fp16, bf16, fp32 or fp8 version."
        )
    begin, end = map(_whole, entry["data_offsets"])
    shape = tuple(map(_whole, entry["shape"]))
    if len(shape) > _MOST_AXES:
        raise ValueError("it has too many axes")
    result = Entry(_DTYPES[entry["dtype"]], shape, begin, end)
    is_empty = len(shape) > 1 and 0 in shape  # notes can be empty lists, but no weight is an empty table
    is_negative = min((begin, *shape)) < 0
    if is_empty or is_negative or end - begin != math.prod(shape) * result.dtype.itemsize:
        raise CheckpointError(f"{path.name} is damaged: the size of {name} contradicts its shape; {_AGAIN}")
    return result


def _whole(number: object) -> int:
    if type(number) is not int or abs(number) >= 2**63:
        raise ValueError(f"{number!r} is neither a size nor an offset")
    return number


def _check_extent(path: Path, header: dict[str, Entry], num_bytes: int) -> None:
    """The tensors must fill the `num_bytes` after the header, one after the other."""
    position = 0
    for name, entry in sorted(header.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != position:
            raise CheckpointError(
                f"{path.name} is damaged: {name} does not start where the tensor before ends; {_AGAIN}"
            )
        position = entry.end
    if position > num_bytes:
        raise CheckpointError(
            f"{path.name} is incomplete: {num_bytes:,} of its {position:,} bytes of weights are there; {_AGAIN}"
        )
    if position < num_bytes:
        raise CheckpointError(
            f"{path.name} is damaged: {num_bytes - position:,} bytes follow its last tensor; {_AGAIN}"
        )
