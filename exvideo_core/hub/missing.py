"""Hints for a missing weight file: what it is, where to get it, where to put it."""

from __future__ import annotations

from .catalog import PublishedFile, choose, files, find, offered_as, size

NODE = "Download ExVideo Models"  # its title in ComfyUI


def hint(name: str) -> str:
    """A sentence for the command line, with a space before it; empty for names that nobody has published."""
    file = find(name)
    if file is None:
        return ""
    key, _ = offered_as(file)
    return f" `exvideo download {key}` fetches {file.title} ({size(*choose(key))}) as {file.name}; see {file.page()}."


def not_there(name: str, folder: str, path: str) -> str:
    """A sentence for a loader in ComfyUI whose saved value is not in its list.

    Args:
        folder: of ComfyUI's models, such as "vae".
        path: where that is on this machine.
    """
    file = find(name, folder)
    if file is None:
        return f"{name} is not in {path}. Put it there and press R in the page, or choose another file from the list."
    return f"{name} is not in {path}. It is {_how_to_get(file)}"


def nothing_there(folder: str, path: str) -> str:
    """A sentence for a loader in ComfyUI whose list is empty; arguments as in `not_there`."""
    file = next(file for file in files() if file.folder == folder)
    return f"there is no file in {path}. What belongs there is {_how_to_get(file)}"


def _how_to_get(file: PublishedFile) -> str:
    key, choice = offered_as(file)
    return (
        f"{file.title} ({size(*choose(key))}). Get it with the node {NODE} ({choice}), with `exvideo download {key}`, "
        f"or by hand from {file.page()} into that folder; then press R in the page."
    )
