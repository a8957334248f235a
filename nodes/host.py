"""ComfyUI's folders, progress, Cancel, page, and names of new files."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
from comfy.cli_args import args
from comfy_execution.progress import get_progress_state
from comfy_execution.utils import get_executing_context

from ..exvideo_core.errors import VideoError
from ..exvideo_core.hub.catalog import PublishedFile
from ..exvideo_core.hub.download import locate
from ..exvideo_core.video.codecs import CONTAINERS
from ..exvideo_core.whole_file import move, work_folder

EXVIDEO_FOLDER = "exvideo"  # in ComfyUI's models folder; `extra_model_paths.yaml` may name more


def register_folders() -> None:
    """Make `models/exvideo` a model folder. Without a list of endings ComfyUI would list every file in it."""
    folder_paths.add_model_folder_path(EXVIDEO_FOLDER, os.path.join(folder_paths.models_dir, EXVIDEO_FOLDER))
    paths, endings = folder_paths.folder_names_and_paths[EXVIDEO_FOLDER]
    folder_paths.folder_names_and_paths[EXVIDEO_FOLDER] = (paths, {*endings, ".safetensors"})


def find_published(file: PublishedFile) -> Path | None:
    """Path of a published file in any folder that its loader searches; None if it is not there."""
    listed = [name for name in folder_paths.get_filename_list(file.folder) if Path(name).name in file.names]
    paths = (folder_paths.get_full_path(file.folder, name) for name in listed)
    return locate(file, [Path(path) for path in paths if path])


def main_folder(folder: str) -> Path:
    """Where a new file of this kind goes: the first of the configured folders, without those of older names."""
    paths = list(map(Path, folder_paths.get_folder_paths(folder)))
    return next((path for path in paths if path.name == folder), paths[0])


def fingerprint(path: Path | None) -> str:
    """A text that changes when the file is replaced by another one of the same name."""
    if path is None:
        return ""
    state = path.stat()
    return f"{path} {state.st_mtime_ns} {state.st_size}"


def progress(total: int) -> Callable[[int, int | None], None]:
    """A function of (done, total) that moves the node's progress bar, and raises when the user has cancelled."""
    bar = comfy.utils.ProgressBar(total)

    def report(done: int, total: int | None = None) -> None:
        bar.update_absolute(done, total)
        comfy.model_management.throw_exception_if_processing_interrupted()

    return report


def show_text(node_id: str | None, text: str, *, log: bool = True) -> None:
    """Show text on a node of the page, and in the log."""
    if log:
        logging.info("ExVideo: %s", text)
    server = sys.modules.get("server")  # importing it fails where ComfyUI's objects are used without a server
    if server is not None and node_id is not None:
        server.PromptServer.instance.send_progress_text(text, node_id)


def send_to_page(event: str, node_id: str | None, content: Mapping[str, Any]) -> None:
    """Send an event about a node to our script in the page that queued this prompt."""
    server = sys.modules.get("server")
    if server is None or node_id is None:
        return
    place = {"node": node_id, "display_node": get_progress_state().dynprompt.get_display_node_id(node_id)}
    running = get_executing_context()
    place["prompt_id"] = running.prompt_id if running else ""
    instance = server.PromptServer.instance
    instance.send_sync(event, {**place, **content}, instance.client_id)


# Saved in workflows, so the names stay; the first is the default.
VIDEO_FORMATS = {
    f"{suffix.lstrip('.')}, {codec}": (suffix, codec)
    for suffix, container in CONTAINERS.items()
    for codec in container.codecs
}


_IS_WINDOWS = os.name == "nt"
_WINDOWS_DEVICE = re.compile(r"(CON|PRN|AUX|NUL|COM\d|LPT\d)(\..*)?", re.IGNORECASE)
_LONGEST_NAME = 200  # bytes; file systems allow 255, and a number and an ending follow


@dataclass(frozen=True)
class Output:
    """Folder and name of new files that belong together.

    Attributes:
        prefix: folder in the output folder and start of the name, with all placeholders filled in.
        folder: absolute path of the folder.
        name: start of the file names.
        subfolder: the folder as the page names it.
    """

    prefix: str
    folder: Path
    name: str
    subfolder: str

    @contextmanager
    def work_folder(self) -> Iterator[Path]:
        """A hidden folder on the same disk, deleted afterwards with its content."""
        with work_folder(self.folder / self.name) as folder:
            yield folder

    def take_in(self, finished: Sequence[Path]) -> list[Path]:
        """Move files to the next free number, in ComfyUI's numbering; return their paths.

        The number is chosen only here: another server may have saved a clip of the same name during the hours of
        sampling.
        """
        counter = _next_number(self.prefix)[2]
        while not _named(
            targets := [self.folder / f"{self.name}_{counter:05}_{file.suffix}" for file in finished], finished
        ):
            counter += 1
        return targets


def _named(targets: Sequence[Path], finished: Sequence[Path]) -> bool:
    """Give all files their names; False, and no file is named, if one of the names is taken."""
    try:
        return _all_or_none(targets, lambda index: os.link(finished[index], targets[index]))
    except OSError:  # no hard links, as on exFAT: empty files reserve the names
        if not _all_or_none(targets, lambda index: targets[index].touch(exist_ok=False)):
            return False
    for index, (file, target) in enumerate(zip(finished, targets, strict=True)):
        try:
            move(file, target)
        except VideoError:
            _remove(targets[index:])
            raise
    return True


def _all_or_none(paths: Sequence[Path], make: Callable[[int], None]) -> bool:
    """Make all files by index, or none; making one must fail if it exists."""
    for index in range(len(paths)):
        try:
            make(index)
        except OSError as error:
            _remove(paths[:index])
            if isinstance(error, FileExistsError):
                return False
            raise
    return True


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def check_prefix(prefix: str) -> None:
    """Raise VideoError if files with this prefix would not lie in the output folder, or cannot be written there."""
    _check_names(prefix)
    output = Path(folder_paths.get_output_directory()).resolve()
    folder = (output / prefix).parent.resolve()
    if not folder.is_relative_to(output):
        raise VideoError(
            f"filename prefix {prefix!r} leads out of the output folder {output}. Write a name, or a folder in it: "
            f"exvideo/clip."
        )
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise VideoError(f"cannot write to {folder}. Choose another filename prefix, or free the folder.")


def _check_names(prefix: str) -> None:
    forbidden = re.search(r'[\x00-\x1f<>:"|?*]' if _IS_WINDOWS else r"[\x00-\x1f]", prefix)
    if forbidden:
        raise VideoError(f"filename prefix {prefix!r} holds {forbidden[0]!r}, which file names cannot. Leave it out.")
    *folders, name = re.split(r"[/\\]", prefix)
    device = next(filter(_WINDOWS_DEVICE.fullmatch, folders), None)
    if _IS_WINDOWS and device:
        raise VideoError(f"filename prefix {prefix!r}: Windows allows no folder {device}. Choose another name.")
    if any(len(part.encode(errors="replace")) > _LONGEST_NAME for part in (*folders, name)):
        raise VideoError(f"filename prefix {prefix!r} is too long: at most {_LONGEST_NAME} bytes for each name in it.")


def new_output(prefix: str, width: int, height: int) -> Output:
    """Output for files with this prefix; the size fills %width% and %height%."""
    check_prefix(prefix)
    folder, name, _, subfolder, filled = _next_number(prefix, width, height)
    return Output(filled, Path(folder), name, subfolder)


def _next_number(prefix: str, width: int = 0, height: int = 0) -> tuple[str, str, int, str, str]:
    """Folder, name, number, subfolder and prefix, as ComfyUI finds them; makes the folder."""
    output = folder_paths.get_output_directory()
    found: tuple[str, str, int, str, str] = folder_paths.get_save_image_path(prefix, output, width, height)
    return found


def unfinished_folder() -> Path:
    """Folder of the states of runs whose video is not saved yet."""
    return Path(folder_paths.get_output_directory()) / "exvideo" / "unfinished"


def graph_tags(prompt: Any, extra_pnginfo: Mapping[str, Any] | None) -> dict[str, str] | None:
    """The graph as the tags that ComfyUI restores it from, each JSON once; None with --disable-metadata."""
    if args.disable_metadata:
        return None
    content = {**(extra_pnginfo or {}), **({} if prompt is None else {"prompt": prompt})}
    return {name: _without_braces_in_strings(json.dumps(value)) for name, value in content.items()}


def _without_braces_in_strings(text: str) -> str:
    """Escape braces in strings: to find the end of the JSON in webm files, the page only counts braces."""
    return re.sub(r'"(?:\\.|[^"\\])*"', lambda string: string[0].replace("{", "\\u007b").replace("}", "\\u007d"), text)
