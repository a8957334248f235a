"""CogVideoX in the shared nodes."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...exvideo_core.families.cogvideox.geometry import GEOMETRY
from ..comfy_bridge.adapter import Adapter
from . import files, nodes, plan
from .model import CogVideoXModel

_FPS = 8  # of the published model


def _latent_fps(_latents: Tensor, _positive: Any) -> float:
    return _FPS / GEOMETRY.temporal_factor


COGVIDEOX = Adapter(
    title="CogVideoX",
    loader="Load ExVideo CogVideoX",
    models=(CogVideoXModel,),
    methods=plan.METHODS,
    plan=plan.plan,
    finish=plan.finish,
    latent_fps=_latent_fps,
    files=(files.TRANSFORMERS, files.TEXT_ENCODERS, files.VAES, files.LORAS),
    nodes=(nodes.ExVideoCogVideoXLoader, nodes.ExVideoCogVideoXLatent, nodes.ExVideoLoRAApply),
)
