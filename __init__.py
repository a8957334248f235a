"""ComfyUI-ExVideo: 128-frame videos from one picture. Imports without ComfyUI, which calls `comfy_entrypoint`."""


async def comfy_entrypoint() -> object:
    """Called by ComfyUI; the nodes are imported here and not before."""
    from .nodes import ExVideoExtension

    return ExVideoExtension()
