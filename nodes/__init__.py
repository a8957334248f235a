"""The nodes, as the extension that ComfyUI asks for. The only folder that imports ComfyUI."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import download, families, files, host, replacements, sampler, speed, video


class ExVideoExtension(ComfyExtension):
    """All nodes of this pack."""

    async def on_load(self) -> None:
        host.register_folders()
        files.register_routes()
        await replacements.register(replacements.REPLACEMENTS)

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            *(node for adapter in families.ADAPTERS for node in adapter.nodes),
            speed.ExVideoSpeed,
            sampler.ExVideoSampler,
            video.ExVideoSave,
            download.ExVideoDownload,
        ]
