"""A family's part of the shared nodes, as functions and data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from torch import Tensor

from ...exvideo_core.sampling.methods import Method
from .file_lists import FileList
from .sampling import Finish, Planner


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A family as ExVideo Sampler and the other shared nodes know it.

    A family of ours derives its model object from `HostedModel`; memory, time and step reuse are asked there.

    Attributes:
        title: name of the family.
        loader: title of the node that loads its MODEL, for errors.
        models: classes of ComfyUI's model objects that belong to the family.
        methods: sampling methods by the names that workflows save; `AUTO` is the reference's.
        plan: plans a run of the sampler.
        finish: defaults for finishing the latents, by MODEL.
        latent_fps: latent frames per second of a clip, from its latents and the positive conditioning.
        files: lists of its loaders, whose files the page labels.
        nodes: the family's own nodes.
    """

    title: str
    loader: str
    models: tuple[type, ...]
    methods: Mapping[str, Method]
    plan: Planner
    finish: Callable[[ModelPatcher], Finish]
    latent_fps: Callable[[Tensor, Any], float]
    files: tuple[FileList, ...]
    nodes: tuple[type[io.ComfyNode], ...]
