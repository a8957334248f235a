"""`exvideo download`: fetch the published files."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import DownloadError
from ..hub.catalog import HUGGING_FACE, SOURCES, PublishedFile, choose, files, groups, keys, size
from ..hub.download import check_room, check_whole, fetch, locate
from ..terminal.progress import Bar

_ENDING = """\
An interrupted download resumes when it is started again. The finished file is compared with the
SHA-256 that the source announces. HF_ENDPOINT names another address for Hugging
Face. svd-xt needs a token of yours in HF_TOKEN, and its licence accepted at
https://huggingface.co/stabilityai/stable-video-diffusion-img2vid-xt
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "download",
        help="fetch the published models",
        description="Fetch published files, unless they are there.",
        epilog=_ENDING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="svd, cogvideox, or one of those that --list shows")
    parser.add_argument(
        "--to",
        type=Path,
        metavar="MODELS",
        help="ComfyUI's models folder: each file goes into the folder below it where the loaders look (default: all "
        "files into the current folder)",
    )
    parser.add_argument("--source", choices=SOURCES, default=HUGGING_FACE, help="where from (default: %(default)s)")
    parser.add_argument("--list", action="store_true", help="show what there is, and fetch nothing")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.list or not arguments.names:
        print(_listing())
        return 0
    chosen = dict.fromkeys(file for name in arguments.names for file in choose(name))
    folders = {file: _folder(arguments.to, file) for file in chosen}
    found = {file: locate(file, [folder / name for name in file.names]) for file, folder in folders.items()}
    check_room({file: folder for file, folder in folders.items() if not found[file]})
    for file, folder in folders.items():
        path = found[file]
        if path is None:
            with Bar(file.name, "B") as bar:
                path = fetch(file, folder, arguments.source, progress=bar)
        print(check_whole(path))
    return 0


def _folder(models: Path | None, file: PublishedFile) -> Path:
    if models is None:
        return Path()
    if (models / "main.py").is_file() and (models / "models").is_dir():
        raise DownloadError(f"--to {models} is ComfyUI itself; its models folder is meant: --to {models / 'models'}")
    if not models.is_dir():
        raise DownloadError(f"--to {models}: there is no such folder; give the folder models of your ComfyUI.")
    return models / file.folder


def _listing() -> str:
    """Every name with size, file and page."""
    width = max(len(key) for key in keys())
    rows = []
    for group in groups():
        parts = ", ".join(file.key for file in group.files)
        rows.append(f"{group.key:<{width}} {size(*group.files):>12}  {group.title}: {parts}")
    for file in files():
        rows += [
            "",
            f"{file.key:<{width}} {size(file):>12}  {file.what}",
            f"{'':<{width}} {'':>12}  {file.folder}/{file.name}, from {file.page()}",
        ]
    return "\n".join(rows)
