"""Fingerprints of runs: equal if two runs compute the same, also in different processes.

A run resumes only if they are equal, so doubtful cases count as different.
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

_SAMPLES = 8  # values of each weight: another training changes nearly all of them, and reading more takes time
_CORE = Path(__file__).resolve().parents[1]


def fingerprint(**parts: object) -> str:
    """Hash numbers, text, tensors, and sequences, mappings and dataclasses of them.

    Of anything else, only the class or the function's name counts.
    """
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=_plain).encode()).hexdigest()[:32]


def _plain(value: object) -> object:
    """An equivalent, of what JSON does not know, that it can write; different values stay different."""
    if isinstance(value, torch.dtype | torch.device | Path):
        return str(value)
    if isinstance(value, Tensor):
        kind = [str(value.dtype), *value.shape]
        if value.is_meta:
            return kind
        content = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        return [*kind, hashlib.sha256(content.numpy().data).hexdigest()]
    if isinstance(value, Mapping):
        return dict(value)
    if is_dataclass(value) and not isinstance(value, type):
        return [type(value).__qualname__, {each.name: getattr(value, each.name) for each in fields(value)}]
    named: Any = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def sampled(weights: Iterable[tuple[str, Tensor]]) -> str:
    """Hash a few values of every weight: tells files apart without reading them whole."""
    return fingerprint(weights={name: [list(weight.shape), _corners(weight)] for name, weight in weights})


@torch.inference_mode()
def _corners(weight: Tensor) -> Tensor:
    """Values along the diagonal from the first to the last. Only these are copied from the weight's device."""
    if weight.numel() == 0:
        return weight
    along = torch.linspace(0, 1, _SAMPLES, dtype=torch.float64)
    places = [(along * (size - 1)).round().long().tolist() for size in weight.shape]
    # one by one: 8-bit formats cannot be indexed with tensors
    return torch.stack([weight[place] for place in zip(*places, strict=True)] if places else [weight])


def environment(device: torch.device) -> dict[str, object]:
    """Everything besides the run that rounding depends on: code, PyTorch, device, threads."""
    if device.type == "cuda":
        return {"code": code(_CORE), "torch": torch.__version__, "device": torch.cuda.get_device_name(device)}
    return {"code": code(_CORE), "torch": torch.__version__, "device": device.type, "threads": torch.get_num_threads()}


@cache
def code(folder: Path) -> str:
    """Hash of the Python files in a folder; a version number would miss local changes."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
