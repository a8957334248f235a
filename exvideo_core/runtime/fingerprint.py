"""What a run is, as a short text: equal for two runs that compute the same, also in another process.

Used to go on only with what is the same run; so what is in doubt counts as different.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_SAMPLES = 8  # values of each weight: another training changes nearly all, and more would have to be read from the disk
_CORE = Path(__file__).resolve().parents[1]


def fingerprint(**parts: object) -> str:
    """Hash of what is given, in depth: numbers, text, tensors with all their content, sequences, mappings, dataclasses.

    Of anything else only the class counts, or a function's name.
    """
    return hashlib.sha256(json.dumps(_plain(parts)).encode()).hexdigest()[:32]


def _plain(value: object) -> object:
    """The same as what JSON can say, different for what differs."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, torch.dtype | torch.device | Path):
        return str(value)
    return _of_parts(value)


def _of_parts(value: object) -> object:
    if isinstance(value, Tensor):
        return _tensor(value)
    if isinstance(value, Mapping):
        return {"mapping": sorted([str(key), _plain(item)] for key, item in value.items())}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return [type(value).__qualname__, {each.name: _plain(getattr(value, each.name)) for each in fields(value)}]
    named: Any = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def _tensor(x: Tensor) -> object:
    if x.is_meta:
        return [str(x.dtype), *x.shape]
    content = x.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return [str(x.dtype), *x.shape, hashlib.sha256(content.numpy().data).hexdigest()]


def sampled(weights: Iterable[tuple[str, Tensor]]) -> str:
    """Hash of a few values of every weight, so that another file is noticed without reading all of this one."""
    return fingerprint(weights={name: [list(weight.shape), _corners(weight)] for name, weight in weights})


@torch.inference_mode()
def _corners(weight: Tensor) -> Tensor:
    """Values along the diagonal from the first to the last, wherever the weight is; nothing is copied but these."""
    if weight.numel() == 0:
        return weight
    along = torch.linspace(0, 1, _SAMPLES, dtype=torch.float64)
    places = [(along * (size - 1)).round().long().tolist() for size in weight.shape]
    # one by one: 8-bit formats cannot be indexed with tensors
    return torch.stack([weight[place] for place in zip(*places, strict=True)] if places else [weight])


def environment(device: torch.device) -> dict[str, object]:
    """What decides about rounding besides the run itself: code, PyTorch, and what computes."""
    if device.type == "cuda":
        return {"code": code(_CORE), "torch": torch.__version__, "device": torch.cuda.get_device_name(device)}
    return {"code": code(_CORE), "torch": torch.__version__, "device": device.type, "threads": torch.get_num_threads()}


@cache
def code(folder: Path) -> str:
    """Hash of the Python files in a folder, for a copy that people change has no version."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
