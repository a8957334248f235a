"""What takes the place of nodes that are no more, so that workflows saved with them still open.

ComfyUI replaces a node by its id, and only while no pack has a node of that id. So a node with a renamed input gets a
new id, and an entry here says what of the old one goes where. `tests/nodes/interface.json` has all that was released.
"""

from __future__ import annotations

from collections.abc import Iterable

from comfy_api.latest import ComfyAPI, io

# Nothing of this pack was renamed so far. The id `ExVideoNode`, of an older pack, is left alone: that node went from a
# picture to a file all by itself, and no single node of ours does.
REPLACEMENTS: tuple[io.NodeReplace, ...] = ()


async def register(replacements: Iterable[io.NodeReplace]) -> None:
    """Tell the running server."""
    api = ComfyAPI()
    for replacement in replacements:
        await api.node_replacement.register(replacement)
