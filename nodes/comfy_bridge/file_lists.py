"""Inputs that name a model file: what the list offers, the file behind a name, and the error for a missing one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ...exvideo_core.errors import CheckpointError
from ...exvideo_core.hub import catalog
from ...exvideo_core.weights.formats import STORED
from .. import host

WEIGHT_TYPES = {"default": None, **STORED}  # saved in workflows, so the names stay
DOWNLOAD = "Download ExVideo Models"  # title of the node
_DIFFUSERS_FOLDER = "diffusers"
_LATER_SHARD = re.compile(r".+-(?!00001)\d{5}-of-\d{5}(\.\w+)?\.safetensors")


@dataclass(frozen=True, kw_only=True)
class FileList:
    """The model files that an input offers.

    Attributes:
        folder: in ComfyUI's models folder.
        demos: files of the embedded demo models, by the names in the list.
        part: what whole models in diffusers' layout call this part; the list then has these folders, too, and of a
            file in shards only the first. Empty for inputs that take single files.
        none: the choice of no file; empty where a file is needed.
    """

    folder: str
    demos: Mapping[str, Path] = field(default_factory=dict)
    part: str = ""
    none: str = ""

    def names(self) -> list[str]:
        """The list's entries: the user's files, none, the demo model, parts of models in diffusers' layout."""
        own = folder_paths.get_filename_list(self.folder)
        if self.part:
            own = [name for name in own if not _LATER_SHARD.fullmatch(name)]
        demos = [name for name, file in self.demos.items() if file.is_file()]
        return [*own, *filter(None, [self.none]), *demos, *self._diffusers_parts()]

    def combo(self, name: str, tooltip: str) -> io.Combo.Input:
        """The input. web/files.js reads `exvideo_files`."""
        published = [file.names for file in catalog.files() if file.folder == self.folder and len(file.names) > 1]
        about = {"exvideo_files": {"folder": self.folder, "names": published}}
        return io.Combo.Input(name, options=self.names(), tooltip=tooltip, extra_dict=about)

    def find(self, name: str) -> Path:
        """The file or folder behind an entry, or behind the other name of a published file.

        Raises:
            CheckpointError: it is missing; says where to get it.
        """
        path = self.look_for(name)
        if path is None:
            raise CheckpointError(self.missing(name))
        return path

    def find_optional(self, name: str) -> Path | None:
        """Like `find`, and None for the choice of no file."""
        return None if name == self.none else self.find(name)

    def look_for(self, name: str) -> Path | None:
        """Like `find`, and None for a missing file."""
        if name in self.demos:
            return self.demos[name]
        if part := self._diffusers_parts().get(name):
            return part
        windows_name = name.replace("\\", "/")  # in a workflow saved there; Windows itself takes both
        for spelled in (name, windows_name):
            if path := folder_paths.get_full_path(self.folder, spelled):
                return Path(path)
        file = catalog.find(name, self.folder)
        return host.find_published(file) if file else None

    def missing(self, name: str) -> str:
        """Where to get a missing file, and where to put it; without a name, the list is empty."""
        where = host.main_folder(self.folder)
        if not name:
            file = next(file for file in catalog.files() if file.folder == self.folder)
            return f"there is no file in {where}. What belongs there is {_how_to_get(file)}"
        if published := catalog.find(name, self.folder):
            return f"{name} is not in {where}. It is {_how_to_get(published)}"
        return f"{name} is not in {where}. Put it there and press R in the page, or choose another file from the list."

    def _diffusers_parts(self) -> dict[str, Path]:
        """Folders of this part in `models/diffusers`, by their entries: diffusers/CogVideoX-5b/transformer."""
        if not self.part:
            return {}
        roots = map(Path, folder_paths.get_folder_paths(_DIFFUSERS_FOLDER))
        found = {root: sorted(root.glob(f"*/{self.part}")) for root in roots if root.is_dir()}
        return {
            f"{_DIFFUSERS_FOLDER}/{path.relative_to(root).as_posix()}": path
            for root, paths in found.items()
            for path in paths
            if (path.parent / "model_index.json").is_file()
        }


def _how_to_get(file: catalog.PublishedFile) -> str:
    key, choice = catalog.offered_as(file)
    return (
        f"{file.title} ({catalog.size(*catalog.choose(key))}). Get it with the node {DOWNLOAD} ({choice}), with "
        f"`exvideo download {key}`, or by hand from {file.page()} into that folder; then press R in the page."
    )


def check(**chosen: tuple[FileList, str | None]) -> bool | str:
    """Whether inputs name files that exist, else what to do, for `validate_inputs`; a value of None comes by a link.

    ComfyUI does not check the lists of inputs that a node's `validate_inputs` names.
    """
    for name, (files, value) in chosen.items():
        if value not in (None, files.none or None) and files.look_for(value) is None:
            return f"{name}: {files.missing(value)}"
    return True
