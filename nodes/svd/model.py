"""The core's UNet as ComfyUI's MODEL.

Shapes: N clips x T frames (B = N T), C channels, H and W latent height and width.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any

import comfy.conds
import comfy.latent_formats
import comfy.utils
import torch
from comfy import model_base, model_management, model_patcher, patcher_extension, supported_models_base
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor, nn

from ...exvideo_core.errors import ClipError, ExVideoError
from ...exvideo_core.families.svd.checkpoint import SVDWeights
from ...exvideo_core.families.svd.config import UNetConfig
from ...exvideo_core.families.svd.lazy_frames import HostTensor, keep
from ...exvideo_core.families.svd.save import published_layout
from ...exvideo_core.families.svd.unet import SVDUNet
from ...exvideo_core.nn.chunks import CHUNK_BYTES
from ...exvideo_core.nn.layers import sinusoid
from ...exvideo_core.nn.out_of_memory import explained
from ...exvideo_core.sampling.schedules import SIGMA_MAX, SIGMA_MIN
from ...exvideo_core.weights.assign import assign_weights, sized_by
from ..comfy_bridge import compat, low_memory, nan_check
from ..comfy_bridge.compiling import chains_instead

# Elements that live at the peak of a forward pass, for each latent cell and channel of the first level, besides the
# piece that is worked on (counted on the meta device, tests/nodes/test_memory.py).
_LIVE_ELEMENTS = 5.8  # 2.1 GB in 16 bits for 128 frames of 64x64 cells
_LIVE_WITHOUT_SKIPS = 3.2  # 1.3 GB

Options = Mapping[str, Any]


# `transformer_options` of the forward pass that runs, one for each thread: ComfyUI has one for each GPU.
_running = threading.local()


@contextmanager
def running_with(options: Options) -> Iterator[None]:
    """In it, attention in this thread is told these options."""
    _running.options = options
    try:
        yield
    finally:
        _running.options = {}  # they hold on to tensors


class HostAttention:
    """The attention function that ComfyUI was started with, in the core's signature; nodes may override it.

    Args:
        precision: least type of the scores, for backends that let one choose; None is that of the queries.
    """

    def __init__(self, precision: torch.dtype | None = None) -> None:
        self.precision = precision

    def __call__(self, q_BNLD: Tensor, k_BNLD: Tensor, v_BNLD: Tensor) -> Tensor:
        heads, dim = q_BNLD.shape[1], v_BNLD.shape[-1]
        # not with skip_output_reshape: large batches are cut there (SDP_BATCH_LIMIT) and ignore it
        out_BLC = optimized_attention(
            q_BNLD,
            k_BNLD,
            v_BNLD,
            heads,
            attn_precision=self.precision,
            skip_reshape=True,
            transformer_options=getattr(_running, "options", {}),
        )
        return out_BLC.unflatten(-1, (heads, dim)).transpose(1, 2)


def wrapped(network: Any, options: Options) -> Any:
    """The network's `_run` behind what other nodes have put around it: caching, compilation and the like."""
    wrappers = patcher_extension.get_all_wrappers(patcher_extension.WrappersMP.DIFFUSION_MODEL, options)
    return patcher_extension.WrapperExecutor.new_class_executor(network._run, network, wrappers)


class HostedUNet(SVDUNet):
    """The UNet behind the call that ComfyUI makes; its weights have the checkpoint's names."""

    def __init__(
        self, *, sizes: UNetConfig, dtype: torch.dtype, device: Any, operations: Any, **described: Any
    ) -> None:
        attention = HostAttention(torch.float32)  # as ComfyUI's own SVD: in 16 bits its scores can overflow
        layers = compat.layers(operations, dtype, described["compute_dtype"], device)
        super().__init__(sizes, layers, attention)
        self.dtype = dtype

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None = None,
        y: Tensor | None = None,
        control: Any = None,
        transformer_options: Options | None = None,
        **conditions: Any,
    ) -> Tensor:
        options = {} if transformer_options is None else transformer_options
        return wrapped(self, options).execute(x, timesteps, context, y, control, options, **conditions)

    def _run(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None = None,
        y: Tensor | None = None,
        control: Any = None,
        transformer_options: Options | None = None,
        *,
        num_video_frames: int | None = None,
        **_others: Any,
    ) -> Tensor:
        if control is not None:
            raise ExVideoError("ControlNet does not work with SVD. Remove it from this model's conditioning.")
        if context is None or y is None:
            raise ExVideoError(
                "this conditioning is not for SVD: make it with ExVideo's or ComfyUI's SVD conditioning."
            )
        options = transformer_options or {}
        ids = window_frame_ids(options, self.config.extension_frames)
        cells = len(x) * x.shape[-2] * x.shape[-1]
        self.offload_skip = HostTensor if skips_wait(self.config, cells, x.dtype, x.device, options) else keep
        compute = partial(self.denoise, x, timesteps, context, y, len(ids) if ids else num_video_frames, ids)
        given = {"the noisy latents": x[:, :4], "the picture's latents": x[:, 4:], "the picture's embedding": context}
        with running_with(options):
            return nan_check.computed(self, options, compute, given)


def live_bytes(
    sizes: UNetConfig, cells: int, dtype: torch.dtype, live_elements: float, chunk_bytes: int = CHUNK_BYTES
) -> float:
    """Activations of a forward pass over so many latent cells of all frames."""
    return cells * sizes.widths[0] * live_elements * dtype.itemsize + chunk_bytes


def skips_wait(
    sizes: UNetConfig, cells: int, dtype: torch.dtype, device: torch.device, options: Options = MappingProxyType({})
) -> bool:
    """Whether skips wait in the host's memory: where the run asks, or activations would take more than half a card."""
    if model_management.is_device_cpu(device):
        return False
    if low_memory.is_saving(options):
        return True
    return live_bytes(sizes, cells, dtype, _LIVE_ELEMENTS) > model_management.get_total_memory(device) / 2


def window_frame_ids(options: Options, table: int | None) -> list[int] | None:
    """Places in the whole clip of the frames of ComfyUI's current context window; None without one.

    A window that reaches past the position table is moved back to the table's end, so clips may be longer than the
    table. The base model has no table: its positions start anew in each window, as in ComfyUI's own SVD.

    Args:
        options: `transformer_options` of the forward pass.
        table: rows of the position table; None is the base model.
    """
    window = options.get("context_window")
    if window is None or window.dim != 0:
        return None
    places = list(window.index_list)
    anchor = getattr(window, "causal_anchor_index", None)  # one frame before the window, dropped from the result
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
    """Latents of SVD's VAE, which has Stable Diffusion's.

    Args:
        rgb_factors: what previews multiply the 4 channels by; None is for the published VAE.
        rgb_bias: what they add.
    """

    def __init__(self, rgb_factors: list[list[float]] | None = None, rgb_bias: list[float] | None = None) -> None:
        super().__init__()
        if rgb_factors is not None:
            self.latent_rgb_factors, self.latent_rgb_factors_bias = rgb_factors, rgb_bias
            self.taesd_decoder_name = None  # made for the published VAE, too


class SVDModel(model_base.BaseModel):
    """Noise levels and conditioning of SVD. The conditioning's keys are those of ComfyUI's own SVD nodes."""

    def __init__(self, config: SVDModelConfig, device: Any = None) -> None:
        super().__init__(config, model_base.ModelType.V_PREDICTION_EDM, device=device, unet_model=HostedUNet)
        self.sizes = config.sizes

    def _apply_model(self, *args: Any, **conditions: Any) -> Tensor:
        with chains_instead(self):
            return super()._apply_model(*args, **conditions)

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
        picture = conditions.get("concat_latent_image")
        picture = torch.zeros_like(noise) if picture is None else picture
        if picture.shape[1:] != noise.shape[1:]:
            picture = comfy.utils.common_upscale(picture, noise.shape[-1], noise.shape[-2], "bilinear", "center")
        result = {
            "y": comfy.conds.CONDRegular(self.encode_adm(**conditions)),
            "c_concat": comfy.conds.CONDNoiseShape(comfy.utils.resize_to_batch_size(picture, noise.shape[0])),
            "num_video_frames": comfy.conds.CONDConstant(noise.shape[0]),
        }
        if conditions.get("cross_attn") is not None:
            result["c_crossattn"] = comfy.conds.CONDCrossAttn(conditions["cross_attn"])
        return result

    def memory_required(self, input_shape: Sequence[int], cond_shapes: Any = None) -> float:
        """Bytes of activations, for ComfyUI to decide how much it keeps loaded and whether both passes go together."""
        return self.activation_bytes(input_shape)

    def activation_bytes(self, shape: Sequence[int], options: Options = MappingProxyType({})) -> float:
        """The same of a run with these `transformer_options`."""
        cells, dtype = shape[0] * shape[-2] * shape[-1], self.get_dtype_inference()
        waits = skips_wait(self.sizes, cells, dtype, model_management.get_torch_device(), options)
        live = _LIVE_WITHOUT_SKIPS if waits else _LIVE_ELEMENTS
        return live_bytes(self.sizes, cells, dtype, live, low_memory.chunk_bytes(options))

    def state_dict_for_saving(
        self,
        unet_state_dict: Mapping[str, Tensor],
        clip_state_dict: Any = None,
        vae_state_dict: Mapping[str, Tensor] | None = None,
        clip_vision_state_dict: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """What ModelSave and ImageOnlyCheckpointSave write: the layout of svd_xt.safetensors."""
        return published_layout(unet_state_dict, vae_state_dict or {}, clip_vision_state_dict or {})


class SVDModelConfig(supported_models_base.BASE):
    """What ComfyUI asks a model's config for; the names in `unet_config` let it match the layers of a LoRA."""

    sampling_settings = {"sigma_max": SIGMA_MAX, "sigma_min": SIGMA_MIN}
    latent_format = SVDLatents

    def __init__(self, sizes: UNetConfig, dtype: torch.dtype, manual_cast_dtype: torch.dtype | None) -> None:
        levels = len(sizes.widths)
        depth = [int(level in sizes.attention_levels) for level in range(levels)]
        super().__init__(
            {
                "sizes": sizes,
                "compute_dtype": manual_cast_dtype or dtype,
                "in_channels": sizes.in_channels,
                "model_channels": sizes.widths[0],
                "num_res_blocks": [sizes.blocks_per_level] * levels,
                "channel_mult": [width / sizes.widths[0] for width in sizes.widths],
                "transformer_depth": [d for d in depth for _ in range(sizes.blocks_per_level)],
                "transformer_depth_middle": 1,
                "transformer_depth_output": [d for d in depth for _ in range(sizes.blocks_per_level + 1)],
                "context_dim": sizes.context_dim,
                "adm_in_channels": 3 * sizes.id_dim,
            }
        )
        self.sizes = sizes
        self.set_inference_dtype(dtype, manual_cast_dtype)


def make_model(
    weights: SVDWeights,
    dtype: torch.dtype | None = None,
    *,
    latents: SVDLatents | None = None,
    disable_dynamic: bool = False,
) -> model_patcher.ModelPatcher:
    """ComfyUI's MODEL around the UNet's weights.

    Args:
        weights: as read from the files, in their own number formats.
        dtype: of the weights; None lets ComfyUI choose by device and file.
        latents: how latents are previewed.
        disable_dynamic: whether to do without dynamic VRAM, which ComfyUI asks for in some clones.
    """
    device = model_management.get_torch_device()
    supported = SVDModelConfig.supported_inference_dtypes
    if dtype is None:
        count = sum(weight.numel() for weight in weights.unet.values())
        stored = comfy.utils.weight_dtype(weights.unet)
        dtype = model_management.unet_dtype(model_params=count, supported_dtypes=supported, weight_dtype=stored)
    manual_cast = model_management.unet_manual_cast(dtype, device, supported)
    sizes = UNetConfig.from_shapes({name: tuple(weight.shape) for name, weight in weights.unet.items()})
    source = " + ".join(weights.sources)
    with sized_by(source):
        model = SVDModel(SVDModelConfig(sizes, dtype, manual_cast), device="meta")
    model.latent_format = latents or SVDLatents()
    patcher_class = model_patcher.ModelPatcher if disable_dynamic else model_patcher.CoreModelPatcher
    patcher = patcher_class(model, load_device=device, offload_device=model_management.unet_offload_device())
    fill(model.diffusion_model, weights.unet, source, is_dynamic=patcher.is_dynamic())
    return patcher


def fill(module: nn.Module, weights: Mapping[str, Tensor], source: str, *, is_dynamic: bool) -> None:
    """Give an empty module its weights, cast to the types it was made with; all must fit exactly.

    With dynamic VRAM they stay as they are in the file: ComfyUI casts each layer when it is used.
    """
    module.requires_grad_(False).eval()
    if not is_dynamic:
        types = _declared_types(module)
        with explained(f"{source} was loaded", "Choose a smaller weight type, such as fp16, or end other programs."):
            weights = {name: weight.to(types.get(name) or weight.dtype) for name, weight in weights.items()}
    assign_weights(module, weights, source)


def _declared_types(module: nn.Module) -> dict[str, torch.dtype | None]:
    """Types of all weights as `archive_model_dtypes` noted them; a layer made for dynamic VRAM has none to look at."""
    end = "_comfy_model_dtype"
    return {
        f"{path}.{note.removesuffix(end)}": dtype
        for path, layer in module.named_modules()
        for note, dtype in vars(layer).items()
        if note.endswith(end)
    }
