"""The nodes, as the extension that ComfyUI asks for. The only folder that imports ComfyUI."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import download, files, host, replacements, sampler, speed, video
from .cogvideox import nodes as cogvideox
from .svd import nodes as svd


class ExVideoExtension(ComfyExtension):
    """All nodes of this pack."""

    async def on_load(self) -> None:
        host.register_folders()
        files.register_routes()
        await replacements.register(replacements.REPLACEMENTS)

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            svd.ExVideoSVDLoader,
            svd.ExVideoSVDConditioning,
            svd.ExVideoSVDJoin,
            cogvideox.ExVideoCogVideoXLoader,
            cogvideox.ExVideoCogVideoXLatent,
            cogvideox.ExVideoLoRAApply,
            speed.ExVideoSpeed,
            sampler.ExVideoSampler,
            video.ExVideoSave,
            download.ExVideoDownload,
        ]
