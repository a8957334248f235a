"""Write safetensors files: all of a file or nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..errors import CheckpointError
from ..whole_file import whole_file


def write_weights(path: Path, weights: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file, all of it or nothing, also if the power fails; CheckpointError if the disk refuses."""
    contiguous = {name: weight.detach().contiguous() for name, weight in weights.items()}
    with whole_file(path, CheckpointError) as temporary:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            save_file(contiguous, temporary, dict(metadata) if metadata else None)
        except SafetensorError as error:
            raise _os_error(error) from error
        temporary.chmod(0o644)  # safetensors keeps files to their owner


def _os_error(error: SafetensorError) -> OSError:
    """The system's error inside that of safetensors: `IoError(Os { code: 28, ... })`."""
    code = re.search(r"\bcode: (\d+)", str(error))
    return OSError(int(code[1]), os.strerror(int(code[1]))) if code else OSError(str(error))
