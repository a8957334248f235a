"""The core's CogVideoX transformer as ComfyUI's MODEL, with the positions that CogVideoX-5B 1.0 was trained with.

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
import comfy.utils
import torch
from comfy import model_base, model_management, model_patcher, supported_models_base
from torch import Tensor

from ...exvideo_core.errors import ExVideoError
from ...exvideo_core.families.cogvideox.config import TransformerConfig
from ...exvideo_core.families.cogvideox.geometry import GEOMETRY
from ...exvideo_core.families.cogvideox.text_encoder import MAX_TOKENS
from ...exvideo_core.families.cogvideox.transformer import CogVideoXTransformer
from ...exvideo_core.families.cogvideox.vae import SCALING_FACTOR
from ...exvideo_core.weights.assign import sized_by
from ..comfy_bridge import compat, low_memory, nan_check
from ..comfy_bridge.compiling import chains_instead
from ..svd.model import HostAttention, Options, fill, running_with, wrapped

# Elements that live at the peak of a forward pass, for each token and channel of the transformer, besides the piece
# that is worked on (counted on the meta device, tests/nodes/test_memory.py: 0.95 GB for 33x60x90 latent cells).
_LIVE_ELEMENTS = 2.6

_PURE_NOISE = 2.0**14  # a power of 2, so that multiplying by it loses nothing

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
        rgb_factors: what previews multiply the 16 channels by; None is for the published VAE.
        rgb_bias: what they add.
    """

    scale_factor = SCALING_FACTOR
    latent_channels = 16
    latent_dimensions = 3
    temporal_downscale_ratio = GEOMETRY.temporal_factor

    def __init__(self, rgb_factors: Sequence[Sequence[float]] | None = None, rgb_bias: Any = None) -> None:
        self.latent_rgb_factors = [list(row) for row in rgb_factors or _RGB_FACTORS]
        self.latent_rgb_factors_bias = rgb_bias


class CogVideoXSampling(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.V_PREDICTION):
    """Noise levels of the thousand trained timesteps, and none between them.

    So the scheduler `normal` is the reference's grid: 999, 979, 958, ... 20, 0 in 50 steps. Timestep 999 is pure noise,
    which no sigma can say. ComfyUI takes 4519, we 16384: still exact enough in float32, and results are four times
    nearer to the reference's (1e-4 instead of 4e-4 on random weights).
    """

    def set_sigmas(self, sigmas: Tensor) -> None:
        super().set_sigmas(torch.cat([sigmas[:-1], sigmas.new_tensor([_PURE_NOISE])]))

    def sigma(self, timestep: Tensor) -> Tensor:
        return super().sigma(timestep.round())


class HostedTransformer(CogVideoXTransformer):
    """The transformer behind the call that ComfyUI makes; its weights have the published names."""

    def __init__(
        self, *, sizes: TransformerConfig, dtype: torch.dtype, device: Any, operations: Any, **described: Any
    ) -> None:
        layers = compat.layers(operations, dtype, described["compute_dtype"], device)
        super().__init__(sizes, layers, HostAttention())
        self.dtype = dtype

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None = None,
        control: Any = None,
        transformer_options: Options | None = None,
        **conditions: Any,
    ) -> Tensor:
        options = {} if transformer_options is None else transformer_options
        return wrapped(self, options).execute(x, timesteps, context, control, options, **conditions)

    def _run(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None = None,
        control: Any = None,
        transformer_options: Options | None = None,
        **_others: Any,
    ) -> Tensor:
        if control is not None:
            raise ExVideoError("ControlNet does not work with CogVideoX. Remove it from this model's conditioning.")
        options = transformer_options or {}
        text = self._checked(context)
        compute, given = partial(super().forward, x, timesteps, text), {"the noisy latents": x, "the prompt": text}
        with running_with(options):
            return nan_check.computed(self, options, compute, given)

    def _checked(self, context: Tensor | None) -> Tensor:
        wanted = self.config.text_dim
        if context is None or context.ndim != 3 or context.shape[-1] != wanted:
            given = "none" if context is None else f"one of {context.shape[-1]} channels"
            raise ExVideoError(
                f"CogVideoX needs a text of {wanted} channels, and got {given}. Make both conditionings with "
                f"CLIPTextEncode and the CLIP of Load ExVideo CogVideoX."
            )
        return context


class CogVideoXModel(model_base.BaseModel):
    """Noise levels and conditioning of CogVideoX-5B 1.0."""

    def __init__(self, config: CogVideoXModelConfig, device: Any = None) -> None:
        super().__init__(config, model_base.ModelType.V_PREDICTION, device=device, unet_model=HostedTransformer)
        self.sizes = config.sizes
        self.model_sampling = CogVideoXSampling(config)

    def _apply_model(self, *args: Any, **conditions: Any) -> Tensor:
        with chains_instead(self):
            return super()._apply_model(*args, **conditions)

    def extra_conds(self, **conditions: Any) -> dict[str, Any]:
        check_latents(self.sizes, conditions["noise"])
        text = conditions.get("cross_attn")
        return {} if text is None else {"c_crossattn": comfy.conds.CONDCrossAttn(text)}

    def memory_required(self, input_shape: Sequence[int], cond_shapes: Any = None) -> float:
        """Bytes of activations, for ComfyUI to decide how much it keeps loaded and whether both passes go together."""
        return self.activation_bytes(input_shape)

    def activation_bytes(self, shape: Sequence[int], options: Options = MappingProxyType({})) -> float:
        """The same of a run with these `transformer_options`."""
        cells = shape[-3] * shape[-2] * shape[-1]
        tokens = shape[0] * (cells // self.sizes.patch**2 + MAX_TOKENS)
        live = tokens * self.sizes.width * _LIVE_ELEMENTS * self.get_dtype_inference().itemsize
        return live + low_memory.chunk_bytes(options)

    def state_dict_for_saving(
        self,
        unet_state_dict: Mapping[str, Tensor],
        clip_state_dict: Any = None,
        vae_state_dict: Any = None,
        clip_vision_state_dict: Any = None,
    ) -> dict[str, Tensor]:
        """What ModelSave writes: the names of the published file."""
        if any(part is not None for part in (clip_state_dict, vae_state_dict, clip_vision_state_dict)):
            raise ExVideoError(
                "CogVideoX is kept in three files, and nothing reads it from one. Save the model with ModelSave "
                "instead of CheckpointSave; text encoder and VAE have not changed."
            )
        return dict(unet_state_dict)


def check_latents(sizes: TransformerConfig, latents: Tensor) -> None:
    """Refuse latents that this transformer cannot denoise."""
    if sizes.in_channels != sizes.out_channels:
        raise ExVideoError(
            "this is an image-to-video transformer, which needs a picture beside the noise; ExVideo makes videos from "
            "text. Load the transformer of THUDM/CogVideoX-5b."
        )
    if latents.ndim != 5 or latents.shape[1] != sizes.out_channels:
        raise ExVideoError(
            f"this latent is not CogVideoX's (its shape is {list(latents.shape)}; "
            f"[1, {sizes.out_channels}, T, height / 8, width / 8] is needed). Make it with ExVideo CogVideoX Latent."
        )
    height, width = (GEOMETRY.spatial_factor * side for side in latents.shape[-2:])
    GEOMETRY.check_size(width, height)


class CogVideoXModelConfig(supported_models_base.BASE):
    """What ComfyUI asks a model's config for."""

    # ComfyUI's "linear" is what diffusers calls scaled_linear
    sampling_settings = {"beta_schedule": "linear", "linear_start": 0.00085, "linear_end": 0.012, "zsnr": True}
    latent_format = CogVideoXLatents
    supported_inference_dtypes = [torch.bfloat16, torch.float16, torch.float32]  # the model card's order

    def __init__(self, sizes: TransformerConfig, dtype: torch.dtype, manual_cast_dtype: torch.dtype | None) -> None:
        super().__init__({"sizes": sizes, "compute_dtype": manual_cast_dtype or dtype})
        self.sizes = sizes
        self.set_inference_dtype(dtype, manual_cast_dtype)


def make_model(
    weights: Mapping[str, Tensor],
    source: str,
    dtype: torch.dtype | None = None,
    *,
    latents: CogVideoXLatents | None = None,
    disable_dynamic: bool = False,
) -> model_patcher.ModelPatcher:
    """ComfyUI's MODEL around the transformer's weights.

    Args:
        weights: in the published names, and in their own number formats.
        source: the file, for messages.
        dtype: of the weights; None lets ComfyUI choose by device and file.
        latents: how latents are scaled and previewed.
        disable_dynamic: whether to do without dynamic VRAM, which ComfyUI asks for in some clones.
    """
    device = model_management.get_torch_device()
    supported = CogVideoXModelConfig.supported_inference_dtypes
    if dtype is None:
        count = sum(weight.numel() for weight in weights.values())
        stored = comfy.utils.weight_dtype(weights)
        dtype = model_management.unet_dtype(model_params=count, supported_dtypes=supported, weight_dtype=stored)
    manual_cast = model_management.unet_manual_cast(dtype, device, supported)
    sizes = TransformerConfig.from_shapes({name: tuple(weight.shape) for name, weight in weights.items()})
    with sized_by(source):
        model = CogVideoXModel(CogVideoXModelConfig(sizes, dtype, manual_cast), device="meta")
    model.latent_format = latents or CogVideoXLatents()
    patcher_class = model_patcher.ModelPatcher if disable_dynamic else model_patcher.CoreModelPatcher
    patcher = patcher_class(model, load_device=device, offload_device=model_management.unet_offload_device())
    fill(model.diffusion_model, weights, source, is_dynamic=patcher.is_dynamic())
    return patcher
