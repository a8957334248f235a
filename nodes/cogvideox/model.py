"""CogVideoX's transformer as ComfyUI's MODEL, with the positions that CogVideoX-5B 1.0 was trained with.

Shapes: B clips, C channels, T latent frames, H and W latent height and width, L text tokens, D their channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import comfy.conds
import comfy.latent_formats
import comfy.model_sampling
import torch
from comfy import model_base
from torch import Tensor

from ...exvideo_core.errors import ExVideoError
from ...exvideo_core.estimate.counting import Counts
from ...exvideo_core.families.cogvideox.config import TransformerConfig
from ...exvideo_core.families.cogvideox.estimate import ESTIMATES
from ...exvideo_core.families.cogvideox.geometry import GEOMETRY
from ...exvideo_core.families.cogvideox.transformer import CogVideoXTransformer
from ...exvideo_core.families.cogvideox.vae import SCALING_FACTOR
from ..comfy_bridge import low_memory
from ..comfy_bridge.model import HostedModel, HostedModelConfig
from ..comfy_bridge.network import ForwardPass, HostedNetwork, Options

_PURE_NOISE = 2.0**14  # a power of 2, so that multiplication is exact

# Latents as the transformer sees them to red, green and blue in [-1, 1], found by eye, not by a fit
# (kijai's ComfyUI-CogVideoXWrapper, latent_preview.py, rounded).
_RGB_FACTORS = (
    (0.1195, 0.0992, -0.0048),
    (-0.0012, 0.0550, 0.0213),
    (-0.0141, -0.0087, -0.0210),
    (0.0306, 0.1219, 0.0140),
    (0.0927, 0.0303, 0.0508),
    (0.0379, 0.0494, 0.0586),
    (0.0177, 0.0088, 0.0360),
    (0.1061, 0.0234, 0.0572),
    (0.1274, -0.0110, 0.0433),
    (-0.0187, 0.0822, 0.1061),
    (0.0084, 0.0762, 0.0930),
    (0.1294, 0.1236, 0.0448),
    (0.0457, 0.0411, -0.0177),
    (0.0002, -0.0140, 0.0533),
    (0.0808, 0.1155, -0.0215),
    (-0.0152, -0.0058, 0.0722),
)


class CogVideoXLatents(comfy.latent_formats.LatentFormat):
    """Latents of CogVideoX-5B's VAE; ComfyUI's own format has the scale of the 2B model, and no colours.

    Args:
        rgb_factors: [16][3], from latent channels to preview colours; None is for the published VAE.
        rgb_bias: [3], added to them.
    """

    scale_factor = SCALING_FACTOR
    latent_channels = 16
    latent_dimensions = 3
    temporal_downscale_ratio = GEOMETRY.temporal_factor

    def __init__(self, rgb_factors: Sequence[Sequence[float]] | None = None, rgb_bias: Any = None) -> None:
        self.latent_rgb_factors = [list(row) for row in rgb_factors or _RGB_FACTORS]
        self.latent_rgb_factors_bias = rgb_bias


class CogVideoXSampling(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.V_PREDICTION):
    """Noise levels of the thousand trained timesteps, without interpolation between them.

    The scheduler `normal` then gives the reference's timesteps: 999, 979, 958, ... 20, 0 in 50 steps. Timestep 999 is
    pure noise, which has no finite sigma. ComfyUI uses 4519, we use 16384: float32 is still exact enough, and results
    are four times closer to the reference's (1e-4 instead of 4e-4 on random weights).
    """

    def set_sigmas(self, sigmas: Tensor) -> None:
        super().set_sigmas(torch.cat([sigmas[:-1], sigmas.new_tensor([_PURE_NOISE])]))

    def sigma(self, timestep: Tensor) -> Tensor:
        return super().sigma(timestep.round())


class HostedTransformer(HostedNetwork, CogVideoXTransformer):
    """CogVideoX's transformer as ComfyUI's `diffusion_model`."""

    title = "CogVideoX"

    def forward_pass(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None,
        _y: Tensor | None,
        options: Options,
        **_others: Any,
    ) -> tuple[ForwardPass, Mapping[str, Tensor]]:
        text = self._checked(context)
        compute = partial(CogVideoXTransformer.forward, self, x, timesteps, text)
        return compute, {"the noisy latents": x, "the prompt": text}

    def _checked(self, context: Tensor | None) -> Tensor:
        wanted = self.config.text_dim
        if context is None or context.ndim != 3 or context.shape[-1] != wanted:
            given = "none" if context is None else f"one of {context.shape[-1]} channels"
            raise ExVideoError(
                f"CogVideoX needs a text of {wanted} channels, and got {given}. Make both conditionings with "
                f"CLIPTextEncode and the CLIP of Load ExVideo CogVideoX."
            )
        return context


class CogVideoXModelConfig(HostedModelConfig):
    """Noise levels, latent format and dtypes."""

    # ComfyUI's "linear" is what diffusers calls scaled_linear
    sampling_settings = {"beta_schedule": "linear", "linear_start": 0.00085, "linear_end": 0.012, "zsnr": True}
    latent_format = CogVideoXLatents
    supported_inference_dtypes = [torch.bfloat16, torch.float16, torch.float32]  # the model card's order


class CogVideoXModel(HostedModel):
    """Noise levels and conditioning of CogVideoX-5B 1.0."""

    config_class, sizes_class, network_class = CogVideoXModelConfig, TransformerConfig, HostedTransformer
    prediction = model_base.ModelType.V_PREDICTION
    estimates = ESTIMATES

    def __init__(self, config: CogVideoXModelConfig, device: Any = None) -> None:
        super().__init__(config, device)
        self.model_sampling = CogVideoXSampling(config)

    def extra_conds(self, **conditions: Any) -> dict[str, Any]:
        check_latents(self.sizes, conditions["noise"])
        text = conditions.get("cross_attn")
        return {} if text is None else {"c_crossattn": comfy.conds.CONDCrossAttn(text)}

    def count_call(self, shape: Sequence[int], options: Options = MappingProxyType({})) -> Counts:
        """Work and memory of a call of the transformer on a batch of clips."""
        patch, (frames, *sides) = self.sizes.patch, shape[-3:]
        height, width = (-(-side // patch) * patch for side in sides)  # others are refused later, in `check_latents`
        settings = {"chunk_bytes": low_memory.chunk_bytes(options), "clips": shape[0]}
        return ESTIMATES.call(self.sizes, (frames, height, width), self.get_dtype_inference(), **settings)

    def state_dict_for_saving(
        self,
        unet_state_dict: Mapping[str, Tensor],
        clip_state_dict: Any = None,
        vae_state_dict: Any = None,
        clip_vision_state_dict: Any = None,
    ) -> dict[str, Tensor]:
        """Weights for ModelSave, under the names of the published file."""
        if any(part is not None for part in (clip_state_dict, vae_state_dict, clip_vision_state_dict)):
            raise ExVideoError(
                "CogVideoX consists of three files, and nothing reads it from one. Save the model with ModelSave "
                "instead of CheckpointSave; text encoder and VAE have not changed."
            )
        return dict(unet_state_dict)


def check_latents(sizes: TransformerConfig, latents: Tensor) -> None:
    """Raise ExVideoError or ClipError for latents that this transformer cannot denoise."""
    if sizes.in_channels != sizes.out_channels:
        raise ExVideoError(
            "this is an image-to-video transformer, which needs an image beside the noise; ExVideo makes videos from "
            "text. Load the transformer of THUDM/CogVideoX-5b."
        )
    if latents.ndim != 5 or latents.shape[1] != sizes.out_channels:
        raise ExVideoError(
            f"this latent is not CogVideoX's (its shape is {list(latents.shape)}; "
            f"[1, {sizes.out_channels}, T, height / 8, width / 8] is needed). Make it with ExVideo CogVideoX Latent."
        )
    height, width = (GEOMETRY.spatial_factor * side for side in latents.shape[-2:])
    GEOMETRY.check_size(width, height)
