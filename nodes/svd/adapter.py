"""Stable Video Diffusion in the shared nodes."""

from __future__ import annotations

from typing import Any

from comfy import model_base
from torch import Tensor

from ...exvideo_core.families.svd.defaults import PLAIN
from ..comfy_bridge.adapter import Adapter
from . import files, nodes, plan
from .model import SVDModel


def _latent_fps(_latents: Tensor, positive: Any) -> float:
    return float(positive[0][1].get("fps") or PLAIN.fps)


SVD = Adapter(
    title="SVD",
    loader="Load ExVideo SVD",
    models=(SVDModel, model_base.SVD_img2vid),  # the second is ComfyUI's own, from its stock loader
    methods=plan.METHODS,
    plan=plan.plan,
    finish=plan.finish,
    latent_fps=_latent_fps,
    files=(files.CHECKPOINTS, files.EXTENSIONS),
    nodes=(nodes.ExVideoSVDLoader, nodes.ExVideoSVDConditioning, nodes.ExVideoSVDJoin),
)
