"""Engines of the benchmark: this core's, and what all have in common. Published networks at full size.

A task is one network's call. Shapes: F frames, T latent frames, H and W latent height and width (`h`, `w` below).

- `svd_unet`: `sample` [F, 8, H, W], `timestep`, `ctx` [1, 1024] and `ids` [1, 3] to v [F, 4, H, W]
- `cog_dit`: `latents` [B, 16, T, H, W], `timestep` [B] and `prompt` [B, 226, 4096] to v [B, 16, T, H, W]
- `svd_vae`: `latents` [F, 4, H, W] of unit variance to frames [F, 3, 8 H, 8 W], all of them in one window
- `cog_vae`: `latents` [1, 16, T, H, W] of unit variance to frames [1, 3, F, 8 H, 8 W]
- `svd_encode`, `cog_encode`: `video` [F, 3, 8 H, 8 W] or [1, 3, F, 8 H, 8 W] to latents
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from exvideo_core.families.cogvideox import config as cog
from exvideo_core.families.cogvideox.transformer import CogVideoXTransformer
from exvideo_core.families.cogvideox.vae import SCALING_FACTOR as COG_SCALE
from exvideo_core.families.cogvideox.vae import CogVideoXVAE, frame_chunks
from exvideo_core.families.svd.config import UNetConfig, VAEConfig
from exvideo_core.families.svd.keys import as_pointwise, extension_to_sgm, unet_from_diffusers, vae_from_diffusers
from exvideo_core.families.svd.lazy_frames import HostTensor
from exvideo_core.families.svd.unet import SVDUNet
from exvideo_core.families.svd.vae import SCALING_FACTOR as SVD_SCALE
from exvideo_core.families.svd.vae import VAE

Config = Mapping[
    str, Any
]  # frames, h, w; where they matter ext (rows of the extension's table), layers, batch, is_streamed
Weights = Mapping[str, Tensor]
Call = Callable[[Mapping[str, Tensor]], Tensor]
Network = tuple[nn.Module, Call]

EXTENSION = "exvideo::"  # before the names of the extension's weights, which are DiffSynth's


# How a task's network is made, and how its weights are named.
Task = tuple[Callable[[Config], Network], Callable[[Weights], Weights]]


class Networks:
    """What an engine is: the networks of the tasks."""

    def __init__(self, name: str, tasks: Mapping[str, Task]) -> None:
        self.name, self.tasks = name, tasks

    def network(self, task: str, cfg: Config) -> Network:
        """A task's network on the meta device, and its call."""
        if task not in self.tasks:
            raise NotImplementedError(f"{self.name} has no {task}")
        make, _ = self.tasks[task]
        with torch.device("meta"):
            module, call = make(cfg)
        return module.eval().requires_grad_(False), call

    def build(self, task: str, cfg: Config, weights: Weights) -> Call:
        """A task's call over given weights.

        Args:
            task: one of those above.
            cfg: sizes.
            weights: in diffusers' names, and the extension's in its own after `EXTENSION`. They are shared, not copied.
        """
        module, call = self.network(task, cfg)
        _, name = self.tasks[task]
        module.load_state_dict(name(weights), assign=True)
        return call


def base(weights: Weights) -> dict[str, Tensor]:
    """Without those of the extension."""
    return {name: weight for name, weight in weights.items() if not name.startswith(EXTENSION)}


def extension(weights: Weights) -> dict[str, Tensor]:
    """Those of the extension, in its own names."""
    return {n.removeprefix(EXTENSION): weight for n, weight in weights.items() if n.startswith(EXTENSION)}


def _svd_unet(cfg: Config) -> Network:
    unet = SVDUNet(UNetConfig(extension_frames=cfg.get("ext") or None))
    if cfg.get("is_streamed"):
        unet.offload_skip = HostTensor
    return unet, lambda given: unet(given["sample"], given["timestep"], given["ctx"], given["ids"])


def _cog_dit(cfg: Config) -> Network:
    transformer = CogVideoXTransformer(cog.TransformerConfig(layers=cfg.get("layers", 42)))
    return transformer, lambda given: transformer(given["latents"], given["timestep"], given["prompt"])


def _svd_vae(_cfg: Config) -> Network:
    vae = VAE(VAEConfig())
    return vae, lambda given: vae.decoder(given["latents"] / SVD_SCALE)


def _svd_encode(_cfg: Config) -> Network:
    vae = VAE(VAEConfig())
    return vae, lambda given: vae.encode(given["video"])


def _cog_vae(_cfg: Config) -> Network:
    vae = CogVideoXVAE(cog.VAEConfig())

    def parts(latents_BCTHW: Tensor) -> Iterator[Tensor]:
        past: dict[Any, Any] = {}
        for start, end in frame_chunks(latents_BCTHW.shape[2], 2):
            yield vae.decoder(latents_BCTHW[:, :, start:end], past)

    return vae, lambda given: _in_main_memory(parts(given["latents"] / COG_SCALE))


def _in_main_memory(parts: Iterator[Tensor]) -> Tensor:
    """Pieces of a clip together, each taken from the device before the next is made, as `decode` does.

    On the meta device, where there is no other memory, only the last.
    """
    kept: list[Tensor] = []
    for part_BCFHW in parts:
        if part_BCFHW.is_meta:
            kept = [part_BCFHW]
        else:
            kept.append(part_BCFHW.cpu())
    return torch.cat(kept, dim=2)


def _cog_encode(_cfg: Config) -> Network:
    vae = CogVideoXVAE(cog.VAEConfig())
    return vae, lambda given: vae.encode(given["video"])


def _name_unet(weights: Weights) -> Weights:
    named = {new: weights[old] for old, new in unet_from_diffusers(base(weights)).items()}
    return named | {extension_to_sgm(name): weight for name, weight in extension(weights).items()}


def _name_vae(weights: Weights) -> Weights:
    return {new: as_pointwise(new, weights[old]) for old, new in vae_from_diffusers(weights).items()}


_TASKS: Mapping[str, Task] = {
    "svd_unet": (_svd_unet, _name_unet),
    "cog_dit": (_cog_dit, dict),
    "svd_vae": (_svd_vae, _name_vae),
    "cog_vae": (_cog_vae, dict),
    "svd_encode": (_svd_encode, _name_vae),
    "cog_encode": (_cog_encode, dict),
}


class Engine(Networks):
    """This core."""

    def __init__(self) -> None:
        super().__init__("exvideo", _TASKS)
