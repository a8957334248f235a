"""Replacements of removed nodes, so that workflows saved with them still open.

ComfyUI replaces a node by its id, and only while no pack has a node of that id. So a node with a renamed input gets a
new id, and an entry here maps the old inputs to the new ones. `tests/nodes/interface.json` has all released nodes.
"""

from __future__ import annotations

from collections.abc import Iterable

from comfy_api.latest import ComfyAPI, io

# Nothing of this pack was renamed so far. The id `ExVideoNode` of an older pack has no replacement: that node went from
# an image to a video file, and no single node of ours does.
REPLACEMENTS: tuple[io.NodeReplace, ...] = ()


async def register(replacements: Iterable[io.NodeReplace]) -> None:
    """Register replacements with the running server."""
    api = ComfyAPI()
    for replacement in replacements:
        await api.node_replacement.register(replacement)
