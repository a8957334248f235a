"""SVD's UNet as ComfyUI's MODEL.

Shapes: N clips x T frames (B = N T), C channels, H and W latent height and width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

import comfy.conds
import comfy.latent_formats
import comfy.utils
import torch
from comfy import model_base, model_management
from torch import Tensor

from ...exvideo_core.errors import ClipError, ExVideoError
from ...exvideo_core.estimate.counting import Counts
from ...exvideo_core.families.svd.config import UNetConfig
from ...exvideo_core.families.svd.estimate import ESTIMATES
from ...exvideo_core.families.svd.lazy_frames import HostTensor, keep
from ...exvideo_core.families.svd.save import published_layout
from ...exvideo_core.families.svd.unet import SVDUNet
from ...exvideo_core.nn.layers import sinusoid
from ...exvideo_core.sampling.schedules import SIGMA_MAX, SIGMA_MIN
from ..comfy_bridge import low_memory
from ..comfy_bridge.model import HostedModel, HostedModelConfig
from ..comfy_bridge.network import ForwardPass, HostedNetwork, Options


class HostedUNet(HostedNetwork, SVDUNet):
    """SVD's UNet as ComfyUI's `diffusion_model`."""

    title = "SVD"
    attention_precision = torch.float32  # like ComfyUI's own SVD: in 16 bits its scores can overflow

    def forward_pass(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None,
        y: Tensor | None,
        options: Options,
        *,
        num_video_frames: int | None = None,
        **_others: Any,
    ) -> tuple[ForwardPass, Mapping[str, Tensor]]:
        if context is None or y is None:
            raise ExVideoError(
                "this conditioning is not for SVD: make it with ExVideo's or ComfyUI's SVD conditioning."
            )
        ids = window_frame_ids(options, self.config.extension_frames)
        latent_shape = (len(x), *x.shape[-2:])
        is_offloaded = offloads_skips(self.config, latent_shape, x.dtype, x.device, options)
        self.offload_skip = HostTensor if is_offloaded else keep
        num_frames = len(ids) if ids else num_video_frames
        compute = partial(SVDUNet.forward, self, x, timesteps, context, y, num_frames, ids)
        return compute, {
            "the noisy latents": x[:, :4],
            "the picture's latents": x[:, 4:],
            "the picture's embedding": context,
        }


def offloads_skips(
    sizes: UNetConfig,
    latent_shape: tuple[int, int, int],
    dtype: torch.dtype,
    device: torch.device,
    options: Options = MappingProxyType({}),
) -> bool:
    """Whether to offload skips: in low-memory runs, and if activations would need more than half of the GPU.

    Args:
        latent_shape: frames of all clips, height and width.
    """
    if model_management.is_device_cpu(device):
        return False
    if low_memory.is_saving(options):
        return True
    return _count_call(sizes, latent_shape, dtype).peak > model_management.get_total_memory(device) / 2


def _count_call(sizes: UNetConfig, latent_shape: tuple[int, int, int], dtype: torch.dtype, **settings: Any) -> Counts:
    if sizes.extension_frames is not None:  # clips of a batch are counted as one, which may be longer than the table
        sizes = replace(sizes, extension_frames=max(sizes.extension_frames, latent_shape[0]))
    return ESTIMATES.call(sizes, latent_shape, dtype, **settings)


def window_frame_ids(options: Options, table: int | None) -> list[int] | None:
    """Positions in the clip of the frames of ComfyUI's current context window; None without one.

    A window that reaches past the position table is moved back to the table's end, so clips may be longer than the
    table. The base model has no table: its positions start at 0 in each window, like in ComfyUI's own SVD.

    Args:
        options: `transformer_options` of the forward pass.
        table: rows of the position table; None is the base model.
    """
    window = options.get("context_window")
    if window is None or window.dim != 0:
        return None
    places = list(window.index_list)
    anchor = getattr(window, "causal_anchor_index", None)  # a frame before the window, dropped from the result
    is_anchored = anchor is not None and anchor >= 0
    if is_anchored:
        places.insert(0, anchor)
    if table is None:
        return list(range(len(places)))
    if max(places) < table:
        return places
    offsets = [(place - places[0]) % window.total_frames for place in places]  # windows of a loop start over
    first = min(places[0], table - 1 - max(offsets))
    if first < 0:
        raise ClipError(
            f"the context windows have {max(offsets) + 1} frames{', one of them before each' * is_anchored}, but this "
            f"extension was trained for {table}. Set the context length to {table - is_anchored} or less."
        )
    return [first + offset for offset in offsets]


class SVDLatents(comfy.latent_formats.SD15):
    """Latents of SVD's VAE, which are Stable Diffusion's.

    Args:
        rgb_factors: [4][3], from latent channels to preview colours; None is for the published VAE.
        rgb_bias: [3], added to them.
    """

    def __init__(self, rgb_factors: list[list[float]] | None = None, rgb_bias: list[float] | None = None) -> None:
        super().__init__()
        if rgb_factors is not None:
            self.latent_rgb_factors, self.latent_rgb_factors_bias = rgb_factors, rgb_bias
            self.taesd_decoder_name = None  # is for the published VAE


class SVDModelConfig(HostedModelConfig):
    """Noise levels, latent format and UNet layout, by which ComfyUI matches the layers of a LoRA."""

    sampling_settings = {"sigma_max": SIGMA_MAX, "sigma_min": SIGMA_MIN}
    latent_format = SVDLatents

    def __init__(self, sizes: UNetConfig, dtype: torch.dtype, manual_cast_dtype: torch.dtype | None) -> None:
        levels = len(sizes.widths)
        depth = [int(level in sizes.attention_levels) for level in range(levels)]
        super().__init__(
            sizes,
            dtype,
            manual_cast_dtype,
            in_channels=sizes.in_channels,
            model_channels=sizes.widths[0],
            num_res_blocks=[sizes.blocks_per_level] * levels,
            channel_mult=[width / sizes.widths[0] for width in sizes.widths],
            transformer_depth=[d for d in depth for _ in range(sizes.blocks_per_level)],
            transformer_depth_middle=1,
            transformer_depth_output=[d for d in depth for _ in range(sizes.blocks_per_level + 1)],
            context_dim=sizes.context_dim,
            adm_in_channels=3 * sizes.id_dim,
        )


class SVDModel(HostedModel):
    """Noise levels and conditioning of SVD. The keys of the conditioning are those of ComfyUI's own SVD nodes."""

    config_class, sizes_class, network_class = SVDModelConfig, UNetConfig, HostedUNet
    prediction = model_base.ModelType.V_PREDICTION_EDM
    estimates = ESTIMATES

    def encode_adm(self, **conditions: Any) -> Tensor:
        """The sinusoids of fps - 1, motion bucket and noise augmentation, [1, 3 x id_dim]."""
        ids = (
            conditions.get("fps", 6) - 1,
            conditions.get("motion_bucket_id", 127),
            conditions.get("augmentation_level", 0),
        )
        return sinusoid(torch.tensor(ids, dtype=torch.float32), self.sizes.id_dim).reshape(1, -1)

    def extra_conds(self, **conditions: Any) -> dict[str, Any]:
        noise = conditions["noise"]
        image = conditions.get("concat_latent_image")
        image = torch.zeros_like(noise) if image is None else image
        if image.shape[1:] != noise.shape[1:]:
            image = comfy.utils.common_upscale(image, noise.shape[-1], noise.shape[-2], "bilinear", "center")
        result = {
            "y": comfy.conds.CONDRegular(self.encode_adm(**conditions)),
            "c_concat": comfy.conds.CONDNoiseShape(comfy.utils.resize_to_batch_size(image, noise.shape[0])),
            "num_video_frames": comfy.conds.CONDConstant(noise.shape[0]),
        }
        if conditions.get("cross_attn") is not None:
            result["c_crossattn"] = comfy.conds.CONDCrossAttn(conditions["cross_attn"])
        return result

    def count_call(self, shape: Sequence[int], options: Options = MappingProxyType({})) -> Counts:
        """Work and memory of a call of the UNet; offloaded skips do not count."""
        latent_shape, dtype = (shape[0], *shape[-2:]), self.get_dtype_inference()
        device, chunk_bytes = model_management.get_torch_device(), low_memory.chunk_bytes(options)
        is_offloaded = offloads_skips(self.sizes, latent_shape, dtype, device, options)
        return _count_call(self.sizes, latent_shape, dtype, chunk_bytes=chunk_bytes, offload_skips=is_offloaded)

    def state_dict_for_saving(
        self,
        unet_state_dict: Mapping[str, Tensor],
        clip_state_dict: Any = None,
        vae_state_dict: Mapping[str, Tensor] | None = None,
        clip_vision_state_dict: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Weights for ModelSave and ImageOnlyCheckpointSave, in the layout of svd_xt.safetensors."""
        return published_layout(unet_state_dict, vae_state_dict or {}, clip_vision_state_dict or {})
