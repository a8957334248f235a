"""Loading checkpoints as data, never code: the folder of a run may come from somebody else.

torch.distributed.checkpoint (2.13) reads its metadata as a pickle, DeepSpeed (0.19.8) all that it saves, and a pickle
can call anything. Here only the classes that such files consist of can be looked up.
"""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.api import CheckpointException

from ..errors import ExVideoError

_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # torch.load obeys it even where its caller asks for everything
_BLOCKED = re.compile(r"GLOBAL (\S+)")  # in torch.load's message, and in ours
_CHECKPOINT = "torch.distributed.checkpoint"
_NAMES = {
    "torch": {"Size"},
    "torch.serialization": {"_get_layout"},
    "pathlib": {"PosixPath", "WindowsPath"},
    "pathlib._local": {"PosixPath", "WindowsPath"},  # the same in Python 3.13
    f"{_CHECKPOINT}.filesystem": {"_StorageInfo"},
    # not BytesStorageMetadata, which stands for one more pickle
    f"{_CHECKPOINT}.metadata": {
        *("Metadata", "MetadataIndex", "TensorStorageMetadata", "ChunkStorageMetadata", "TensorProperties"),
        *("StorageMeta", "_MEM_FORMAT_ENCODING"),
    },
}


@contextmanager
def safe_load(folder: Path, *classes: type) -> Iterator[None]:
    """Within it, torch.load accepts tensors, plain values and these classes only, whatever its callers ask for.

    ExVideoError if something else is in the files of this folder, or they are damaged.
    """
    before = os.environ.get(_FORCE)
    os.environ[_FORCE] = "1"
    try:
        with torch.serialization.safe_globals(list(classes)):
            yield
    except pickle.UnpicklingError as error:
        raise _sentence(folder, error) from error
    except CheckpointException as error:  # of all processes; no Exception but a BaseException
        first, _ = next(iter(error.failures.values()))
        raise _sentence(folder, first) from error
    finally:
        if before is None:
            del os.environ[_FORCE]
        else:
            os.environ[_FORCE] = before


def check_metadata(folder: Path) -> None:
    """Raise ExVideoError if torch.distributed.checkpoint's metadata names other classes than its own, or is damaged."""
    try:
        with (folder / ".metadata").open("rb") as stream:
            _Reader(stream).load()
    except Exception as error:  # a damaged pickle raises anything; nothing of it has been run
        raise _sentence(folder, error) from error


def _sentence(folder: Path, error: BaseException) -> ExVideoError:
    if name := _BLOCKED.search(str(error)):
        return ExVideoError(
            f"{folder} was not loaded: it asks for {name[1][:100]}, and a checkpoint of exvideo train has nothing but "
            f"tensors. Delete the folder unless you know where it comes from."
        )
    return ExVideoError(
        f"{folder} is damaged ({type(error).__name__}: {str(error)[:200]}); delete it to resume from the checkpoint "
        f"before."
    )


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401  pickle's signature
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if not is_dtype and name not in _NAMES.get(module, ()):
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")
        return super().find_class(module, name)
