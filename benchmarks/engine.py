"""This core as an engine of the side-by-side benchmark: the published networks at full size, over given weights.

Shapes: F frames, T latent frames, H and W latent height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from exvideo_core.checkpoint.keymaps import as_pointwise, extension_to_sgm, unet_from_diffusers, vae_from_diffusers
from exvideo_core.models.cogvideox import config as cog
from exvideo_core.models.cogvideox.transformer import CogVideoXTransformer
from exvideo_core.models.cogvideox.vae import SCALE as COG_SCALE
from exvideo_core.models.cogvideox.vae import CogVideoXVAE
from exvideo_core.models.svd.config import UNetConfig, VAEConfig
from exvideo_core.models.svd.unet import SVDUNet
from exvideo_core.models.svd.vae import SCALE as SVD_SCALE
from exvideo_core.models.svd.vae import VAE

Weights = Mapping[str, Tensor]
Call = Callable[[Mapping[str, Tensor]], Tensor]

EXTENSION = "exvideo::"  # before the names of the extension's weights, which are DiffSynth's


class Engine:
    """Builds the network of a task: `svd_unet`, `cog_dit`, `svd_vae` or `cog_vae`."""

    name = "exvideo"

    def build(self, task: str, cfg: Mapping[str, Any], weights: Weights) -> Call:
        """A function of the inputs that gives the network's result.

        Args:
            task: whose network.
            cfg: sizes; `layers` of the transformer.
            weights: in diffusers' names, and the extension's in its own after `EXTENSION`. They are shared, not copied.
        """
        builders = {"svd_unet": svd_unet, "svd_vae": svd_vae, "cog_vae": cog_vae}
        if task == "cog_dit":
            return cog_dit(weights, cfg["layers"])
        if task not in builders:
            raise NotImplementedError(task)
        return builders[task](weights)


def svd_unet(weights: Weights) -> Call:
    """`sample` [F, 8, H, W], `timestep`, `ctx` [1, 1024] and `ids` [1, 3] to v [F, 4, H, W]."""
    base = {name: weight for name, weight in weights.items() if not name.startswith(EXTENSION)}
    named = {new: base[old] for old, new in unet_from_diffusers(base).items()}
    for name in weights.keys() - base.keys():
        named[extension_to_sgm(name.removeprefix(EXTENSION))] = weights[name]
    table = named.get("middle_block.1.extension.positions.weight")
    config = UNetConfig(extension_frames=None if table is None else len(table))
    unet = _loaded(lambda: SVDUNet(config), named)
    return lambda given: unet(given["sample"], given["timestep"], given["ctx"], given["ids"])


def cog_dit(weights: Weights, layers: int) -> Call:
    """`latents` [1, 16, T, H, W], `timestep` [1] and `prompt` [1, 226, 4096] to v [1, 16, T, H, W]."""
    transformer = _loaded(lambda: CogVideoXTransformer(cog.TransformerConfig(layers=layers)), weights)
    return lambda given: transformer(given["latents"], given["timestep"], given["prompt"])


def svd_vae(weights: Weights) -> Call:
    """`latents` [F, 4, H, W] of unit variance to frames [F, 3, 8 H, 8 W], all of them in one window."""
    named = {new: as_pointwise(new, weights[old]) for old, new in vae_from_diffusers(weights).items()}
    vae = _loaded(lambda: VAE(VAEConfig()), named)
    return lambda given: vae.decoder(given["latents"] / SVD_SCALE)


def cog_vae(weights: Weights) -> Call:
    """`latents` [1, 16, T, H, W] of unit variance to frames [1, 3, F, 8 H, 8 W], on the CPU."""
    vae = _loaded(lambda: CogVideoXVAE(cog.VAEConfig()), weights)
    return lambda given: vae.decode(given["latents"] / COG_SCALE)


def _loaded(build: Callable[[], nn.Module], weights: Weights) -> nn.Module:
    with torch.device("meta"):
        network = build()
    network.load_state_dict(weights, assign=True)
    return network.eval().requires_grad_(False)
