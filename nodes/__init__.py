"""The nodes, as the extension that ComfyUI asks for. The only folder that imports ComfyUI."""

from __future__ import annotations

from .adapters import compat  # first: it says in one sentence when ComfyUI is too old

compat.require_comfyui()

from comfy_api.latest import ComfyExtension, io  # noqa: E402 (checked above)

from . import cogvideox, host, replacements, sampler, speed, svd, video  # noqa: E402 (checked above)


class ExVideoExtension(ComfyExtension):
    """All nodes of this pack."""

    async def on_load(self) -> None:
        host.register_folders()
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
        ]
