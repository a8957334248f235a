"""What to say when a weight file is not there: what it is, where to get it, where to put it."""

from __future__ import annotations

from .catalog import FILES, PublishedFile, choose, find, offered_as, size

NODE = "Download ExVideo Models"  # its title in ComfyUI


def hint(name: str) -> str:
    """For the command line, about a path where nothing is; empty for names that nobody has published."""
    file = find(name)
    if file is None:
        return ""
    key, _ = offered_as(file)
    return f" `exvideo download {key}` fetches {file.title} ({size(*choose(key))}) as {file.name}; see {file.page()}."


def not_there(name: str, folder: str, path: str) -> str:
    """For a loader in ComfyUI whose saved value is not in its list.

    Args:
        folder: of ComfyUI's models, such as "vae".
        path: where that is on this machine.
    """
    file = find(name, folder)
    if file is None:
        return f"{name} is not in {path}. Put it there and press R in the page, or choose another file from the list."
    return f"{name} is not in {path}. It is {_how_to_get(file)}"


def nothing_there(folder: str, path: str) -> str:
    """The same for a list without any file."""
    file = next(file for file in FILES if file.folder == folder)
    return f"there is no file in {path}. What belongs there is {_how_to_get(file)}"


def _how_to_get(file: PublishedFile) -> str:
    key, choice = offered_as(file)
    return (
        f"{file.title} ({size(*choose(key))}). Get it with the node {NODE} ({choice}), with `exvideo download {key}`, "
        f"or by hand from {file.page()} into that folder; then press R in the page."
    )
