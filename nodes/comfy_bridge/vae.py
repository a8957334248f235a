"""An autoencoder of the core as ComfyUI's VAE."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import comfy.ops
import comfy.sd
import torch
from comfy import model_management, model_patcher
from torch import Tensor

from ...exvideo_core.nn.layers import Ops
from ...exvideo_core.nn.out_of_memory import explained
from ...exvideo_core.weights.assign import shapes_of, sized_by
from . import compat, low_memory
from .loading import fill

Shapes = Mapping[str, tuple[int, ...]]

decoding = explained(
    "decoding, even with the smallest tiles",
    "Nothing is lost: ComfyUI keeps the latents. End what else uses the card and queue again, or start ComfyUI with "
    "--cpu-vae.",
)
encoding = explained("encoding, even with the smallest chunks", "Lower width and height.")


class Placed:
    """Mixin: an autoencoder that runs on a device and in a dtype set from outside.

    With offloading, the device of a weight is not that of the computation.
    """

    device = torch.device("cpu")
    dtype = torch.float32

    def to_network(self, x: Tensor) -> Tensor:
        return x.to(self.device, self.dtype)


class CoreVAE(comfy.sd.VAE, ABC):
    """ComfyUI's VAE object around an autoencoder of the core. A family's class builds, decodes and encodes.

    Args:
        weights: under the autoencoder's names.
        source: the file, for messages.
        disable_dynamic: no dynamic VRAM; ComfyUI asks for it in some clones.
    """

    def __init__(self, weights: Mapping[str, Tensor], source: str, *, disable_dynamic: bool = False) -> None:
        with compat.without_warning("WARNING: No VAE weights detected"):
            super().__init__(sd={})  # every attribute of this ComfyUI version, at its default
        self.describe()
        self.device = model_management.vae_device()
        self.vae_dtype = model_management.vae_dtype(self.device, self.working_dtypes)
        self.output_device = model_management.intermediate_device()
        self.memory_used_decode = self._decode_memory
        self.memory_used_encode = self._encode_memory
        layers = compat.layers(comfy.ops.disable_weight_init, self.vae_dtype, self.vae_dtype, "meta")
        with sized_by(source):
            network = self.build(weights, shapes_of(weights), layers)
        model_management.archive_model_dtypes(network)
        network.dtype, network.chunk_bytes = self.vae_dtype, low_memory.card_chunk_bytes(self.device)
        self.first_stage_model = network
        patcher_class = model_patcher.ModelPatcher if disable_dynamic else model_patcher.CoreModelPatcher
        offload_device = model_management.vae_offload_device()
        self.patcher = patcher_class(network, load_device=self.device, offload_device=offload_device)
        fill(network, weights, source, is_dynamic=self.patcher.is_dynamic())

    def describe(self) -> None:
        """Set ComfyUI's attributes that differ from those of an image model's VAE."""

    @abstractmethod
    def build(self, weights: Mapping[str, Tensor], shapes: Shapes, layers: Ops) -> Any:
        """The network, without weights."""

    @encoding
    def encode(self, pixel_samples: Tensor) -> Tensor:
        """Frames [T, H, W, 3] in [0, 1] to raw latents; sides are cropped to multiples of 8 pixels."""
        return self.encode_pixels(frames_to_pixels(self.vae_encode_crop_pixels(pixel_samples)))

    def encode_tiled(self, pixel_samples: Tensor, *_tile_sizes: Any, **_more_tile_sizes: Any) -> Tensor:
        """Encode as `encode` does: a few frames at a time, so tiles are not needed."""
        return self.encode(pixel_samples)

    @encoding
    def encode_pixels(self, video_TCHW: Tensor) -> Tensor:
        """Pixels in [-1, 1], with sides that are multiples of 8, to raw latents."""
        self._load(self._encode_memory(tuple(video_TCHW.shape), self.vae_dtype))
        return self._encode(video_TCHW).to(self.output_device, compat.intermediate_dtype())

    @abstractmethod
    def _encode(self, video_TCHW: Tensor) -> Tensor:
        """`encode_pixels` by the network, which is on its device."""

    @abstractmethod
    def _decode_memory(self, shape: Any, dtype: torch.dtype) -> float:
        """Bytes of activations, by the shape of the latents."""

    @abstractmethod
    def _encode_memory(self, shape: Any, dtype: torch.dtype) -> float:
        """Bytes of activations, by the shape of the pixels, whose last two are height and width."""

    def _load(self, memory: float) -> None:
        model_management.load_models_gpu([self.patcher], memory_required=memory)
        self.first_stage_model.device = self.device


def frames_to_pixels(frames_THWC: Tensor) -> Tensor:
    """Frames [T, H, W, 3] in [0, 1] to pixels [T, 3, H, W] in [-1, 1], as networks take them."""
    return frames_THWC.movedim(-1, 1).float() * 2 - 1


def encode_pixels(vae: Any, video_TCHW: Tensor) -> Tensor:
    """Raw latents of pixels around [-1, 1], by any VAE of ComfyUI's; its own ones take [0, 1]."""
    if isinstance(vae, CoreVAE):
        return vae.encode_pixels(video_TCHW)
    latents: Tensor = vae.encode((video_TCHW.movedim(1, -1) + 1) / 2)
    return latents
