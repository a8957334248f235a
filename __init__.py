"""ComfyUI-ExVideo: 128-frame videos from one picture. Imports without ComfyUI, which calls `comfy_entrypoint`."""

from . import installation

installation.check()

WEB_DIRECTORY = "./web"  # scripts of the page, and the nodes' help


async def comfy_entrypoint() -> object:
    """Called by ComfyUI; the nodes are imported here and not before."""
    from .nodes import ExVideoExtension

    return ExVideoExtension()
