"""Whether this pack can run where it was put; each thing that stands against it is told in one sentence.

Looked at when ComfyUI imports the pack: versions from before `comfy_entrypoint` would never call it, and skip the pack
with words that help nobody.
"""

from __future__ import annotations

import logging
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

OLDEST_COMFYUI = "0.16.3"
PACKAGES = {  # what requirements.txt asks for, by what is imported
    "safetensors": "safetensors",
    "einops": "einops",
    "imageio_ffmpeg": "imageio-ffmpeg",
    "huggingface_hub": "huggingface_hub",
    "filelock": "filelock",
}
_HERE = Path(__file__).parent
_IN_ADDRESSES = "!$&'()*+,;=@:~"  # besides letters, digits and -._


def check() -> None:
    """Raise ImportError unless the pack can run; say in the log what will not work."""
    if "folder_paths" not in sys.modules:  # not inside of ComfyUI
        return
    require_comfyui()
    require_packages()
    if complaint := name_complaint(_HERE.name):
        logging.warning("ExVideo: %s", complaint)


def require_comfyui() -> None:
    """Raise ImportError unless this ComfyUI is new enough."""
    try:
        from comfyui_version import __version__ as version
    except ImportError:
        version = ""
    if _numbers(version) < _numbers(OLDEST_COMFYUI) or not _has_node_api():
        raise ImportError(
            f"ComfyUI-ExVideo needs ComfyUI {OLDEST_COMFYUI} or newer; this is {version or 'an older one'}. "
            f"Please update ComfyUI."
        )


def require_packages() -> None:
    """Raise ImportError unless everything in requirements.txt is installed."""
    missing = [name for module, name in PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise ImportError(
            f"ComfyUI-ExVideo needs {', '.join(missing)}, which ComfyUI's Python does not have. Run this, and start "
            f'ComfyUI again: "{sys.executable}" -m pip install -r "{_HERE / "requirements.txt"}"'
        )


def name_complaint(name: str) -> str | None:
    """What goes wrong in a folder of this name: ComfyUI finds no file in it whose address would be escaped."""
    if quote(name, safe=_IN_ADDRESSES) == name:
        return None
    return (
        f"the folder is named {name!a}, and ComfyUI serves no previews, help or templates out of folders with spaces "
        f"or letters beyond English. The nodes work. Rename it to ComfyUI-ExVideo."
    )


def _has_node_api() -> bool:
    try:
        return find_spec("comfy_api.latest") is not None
    except ModuleNotFoundError:  # not even comfy_api
        return False


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int("".join(filter(str.isdigit, part)) or 0) for part in version.split(".")[:3])
