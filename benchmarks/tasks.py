"""Seeded inputs and weights of the tasks, equal for all engines."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.engine import EXTENSION, Config, Engine
from benchmarks.references import Diffusers
from exvideo_core.families.svd.keys import sgm_to_extension

TASKS = ("svd_unet", "cog_dit", "svd_vae", "cog_vae")


def inputs(task: str, cfg: Config, dtype: torch.dtype, device: str) -> dict[str, Tensor]:
    """Inputs of a task's forward pass; on the meta device only shapes."""
    batch, frames, height, width = cfg.get("batch", 1), cfg["frames"], cfg["h"], cfg["w"]
    shapes = {
        "svd_unet": {"sample": (frames, 8, height, width), "ctx": (1, 1024)},
        "cog_dit": {"latents": (batch, 16, frames, height, width), "prompt": (batch, 226, 4096)},
        "svd_vae": {"latents": (frames, 4, height, width)},
        "cog_vae": {"latents": (1, 16, frames, height, width)},
        "svd_encode": {"video": (frames, 3, 8 * height, 8 * width)},
        "cog_encode": {"video": (1, 3, frames, 8 * height, 8 * width)},
    }[task]
    if device == "meta":
        given = {name: torch.empty(shape, dtype=dtype, device=device) for name, shape in shapes.items()}
    else:
        generator = torch.Generator().manual_seed(1)
        given = {name: torch.randn(shape, generator=generator).to(device, dtype) for name, shape in shapes.items()}
    if task == "svd_unet":
        given["timestep"] = torch.tensor(0.7, device=device)
        given["ids"] = torch.tensor([[29.0, 127.0, 0.02]], device=device)
    if task == "cog_dit":
        given["timestep"] = torch.tensor([500] * batch, device=device)
    return given


def weights(task: str, cfg: Config, dtype: torch.dtype, device: str) -> dict[str, Tensor]:
    """Random weights by diffusers' names, and the extension's by its own after `EXTENSION`."""
    shapes = {name: weight.shape for name, weight in Diffusers().network(task, cfg)[0].state_dict().items()}
    if task == "svd_unet" and cfg.get("ext"):
        for name, weight in Engine().network(task, cfg)[0].state_dict().items():
            if ".extension." in name:
                shapes[EXTENSION + sgm_to_extension(name)] = weight.shape
    return filled(shapes, dtype, device)


def random_network(build: Callable[[], nn.Module], dtype: torch.dtype, device: str) -> Any:
    """A network with random weights, made where they are to be."""
    with torch.device("meta"):
        network = build()
    shapes = {name: weight.shape for name, weight in network.state_dict().items()}
    network.load_state_dict(filled(shapes, dtype, device), assign=True)
    return network.eval().requires_grad_(False)


def filled(shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, device: str) -> dict[str, Tensor]:
    """Weights that keep activations near unit variance, filled in place because they take most of the memory."""
    pool = torch.randn(1 << 22, generator=torch.Generator().manual_seed(0)).to(device)
    return {name: _fill(name, torch.empty(shape, dtype=dtype, device=device), pool) for name, shape in shapes.items()}


def _fill(name: str, weight: Tensor, pool: Tensor) -> Tensor:
    if name.endswith("mix_factor"):
        return weight.fill_(0.3)
    if weight.ndim == 1 and name.endswith("weight"):
        return weight.fill_(1)
    scale = 0.02 if weight.ndim < 2 else 0.6 / math.sqrt(weight[0].numel())
    # start at another offset of the pool for each, so that biases differ
    source = pool[sum(name.encode()) * 7919 % 1_000_000 :]
    for chunk in weight.view(-1).split(len(source)):
        torch.mul(source[: len(chunk)].to(chunk.dtype), scale, out=chunk)
    return weight
