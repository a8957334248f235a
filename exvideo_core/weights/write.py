"""Write safetensors files: all of a file or nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..errors import CheckpointError


def write_weights(path: Path, weights: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file, all of it or nothing, through a temporary file beside it; also if the power fails.

    Raises:
        CheckpointError: the disk refuses.
    """
    temporary = path.with_name(part_name(path.name, str(os.getpid())))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        contiguous = {name: weight.detach().contiguous() for name, weight in weights.items()}
        save_file(contiguous, temporary, dict(metadata) if metadata else None)
        temporary.chmod(0o644)  # safetensors keeps files to their owner
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be written: {error}; check the folder and the free space.") from error
    finally:
        if temporary.exists():
            temporary.unlink()


def part_name(name: str, process: str) -> str:
    """What a file is called while it is written; "*" in place of the process matches those of all."""
    return f".{name}.{process}.part"
