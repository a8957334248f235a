"""The interface of benchmark engines, and this core's engine. Published networks at full size.

A task is a forward pass of a network.
Shapes: F frames, T latent frames, H and W latent height and width (`h`, `w` below).

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
from exvideo_core.families.cogvideox.vae import SCALING_FACTOR as COG_SCALE, CogVideoXVAE, temporal_chunks
from exvideo_core.families.svd.config import UNetConfig, VAEConfig
from exvideo_core.families.svd.keys import as_pointwise, extension_to_sgm, unet_from_diffusers, vae_from_diffusers
from exvideo_core.families.svd.lazy_frames import HostTensor
from exvideo_core.families.svd.unet import SVDUNet
from exvideo_core.families.svd.vae import SCALING_FACTOR as SVD_SCALE, VAE
from exvideo_core.nn.attention import auto
from exvideo_core.nn.convolution import lay_out_weights
from exvideo_core.runtime.memory import chunk_bytes_on

# frames, h, w; for some tasks ext (rows of the extension's position table), layers, batch, is_streamed
Config = Mapping[str, Any]
Weights = Mapping[str, Tensor]
Call = Callable[[Mapping[str, Tensor]], Tensor]
Network = tuple[nn.Module, Call]

EXTENSION = "exvideo::"  # prefix of the extension's weights, which keep DiffSynth's names

# Builds a task's network, and renames diffusers' weights to the network's.
Task = tuple[Callable[[Config], Network], Callable[[Weights], Weights]]


class Networks:
    """An engine: its name and its network for each task."""

    def __init__(self, name: str, tasks: Mapping[str, Task]) -> None:
        self.name, self.tasks = name, tasks

    def network(self, task: str, cfg: Config) -> Network:
        """A task's network on the meta device, and its forward pass."""
        if task not in self.tasks:
            raise NotImplementedError(f"{self.name} has no {task}")
        make, _ = self.tasks[task]
        with torch.device("meta"):
            module, call = make(cfg)
        return module.eval().requires_grad_(False), call

    def build(self, task: str, cfg: Config, weights: Weights) -> Call:
        """A task's forward pass with given weights.

        Args:
            task: see the module's docstring.
            cfg: sizes.
            weights: by diffusers' names, and the extension's by its own after `EXTENSION`; shared, not copied.
        """
        module, call = self.network(task, cfg)
        _, name = self.tasks[task]
        module.load_state_dict(name(weights), assign=True)
        self.prepare(module)
        return call

    def prepare(self, module: nn.Module) -> None:
        """What an engine does to a network after it has loaded its weights."""


def base(weights: Weights) -> dict[str, Tensor]:
    """Weights of the base model, without the extension's."""
    return {name: weight for name, weight in weights.items() if not name.startswith(EXTENSION)}


def extension(weights: Weights) -> dict[str, Tensor]:
    """Weights of the extension, by its own names."""
    return {n.removeprefix(EXTENSION): weight for n, weight in weights.items() if n.startswith(EXTENSION)}


def _svd_unet(cfg: Config) -> Network:
    unet = SVDUNet(UNetConfig(extension_frames=cfg.get("ext") or None), attention=auto)
    if cfg.get("is_streamed"):
        unet.offload_skip = HostTensor
    return unet, lambda given: unet(given["sample"], given["timestep"], given["ctx"], given["ids"])


def _cog_dit(cfg: Config) -> Network:
    transformer = CogVideoXTransformer(cog.TransformerConfig(layers=cfg.get("layers", 42)), attention=auto)
    return transformer, lambda given: transformer(given["latents"], given["timestep"], given["prompt"])


def _svd_vae(_cfg: Config) -> Network:
    vae = VAE(VAEConfig())
    return vae, lambda given: vae.decoder(given["latents"] / SVD_SCALE, vae.chunk_bytes)


def _svd_encode(_cfg: Config) -> Network:
    vae = VAE(VAEConfig())
    return vae, lambda given: vae.encode(given["video"])


def _cog_vae(_cfg: Config) -> Network:
    vae = CogVideoXVAE(cog.VAEConfig())

    def decode(latents_BCTHW: Tensor) -> Iterator[Tensor]:
        past: dict[Any, Any] = {}
        for start, end in temporal_chunks(latents_BCTHW.shape[2], 2):
            yield vae.decoder(latents_BCTHW[:, :, start:end], past, vae.chunk_bytes)

    return vae, lambda given: _cat_on_host(decode(given["latents"] / COG_SCALE))


def _cat_on_host(chunks: Iterator[Tensor]) -> Tensor:
    """Concatenate temporal chunks, each moved to host memory before the next is computed, as in `CogVideoXVAE.decode`.

    On the meta device, which has no host memory, only the last chunk is kept.
    """
    kept: list[Tensor] = []
    for chunk_BCFHW in chunks:
        if chunk_BCFHW.is_meta:
            kept = [chunk_BCFHW]
        else:
            kept.append(chunk_BCFHW.cpu())
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
    """The engine of this repository, `exvideo_core`."""

    def __init__(self) -> None:
        super().__init__("exvideo", _TASKS)

    def prepare(self, module: nn.Module) -> None:
        """Chunks by the card and weights laid out for it, as the pipelines do."""
        module.chunk_bytes = chunk_bytes_on(next(module.parameters()).device)
        if isinstance(module, SVDUNet | VAE):
            lay_out_weights(module)
