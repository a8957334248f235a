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
from . import compat
from .loading import fill

Shapes = Mapping[str, tuple[int, ...]]

decoding = explained(
    "the clip was decoded, even in small tiles",
    "Nothing is lost: ComfyUI keeps the latents. End what else uses the card and queue again, or start ComfyUI with "
    "--cpu-vae.",
)
encoding = explained("pictures were encoded, even in small pieces", "Lower width and height.")


class Placed:
    """An autoencoder where the host says; with offloading, the place of a weight says nothing."""

    device = torch.device("cpu")
    dtype = torch.float32

    def to_network(self, x: Tensor) -> Tensor:
        return x.to(self.device, self.dtype)


class CoreVAE(comfy.sd.VAE, ABC):
    """ComfyUI's VAE object around an autoencoder of the core; subclasses say which, how it decodes and encodes.

    Args:
        weights: in the names of the autoencoder.
        source: the file, for messages.
        disable_dynamic: whether to do without dynamic VRAM, which ComfyUI asks for in some clones.
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
        network.dtype = self.vae_dtype
        self.first_stage_model = network
        patcher_class = model_patcher.ModelPatcher if disable_dynamic else model_patcher.CoreModelPatcher
        offload_device = model_management.vae_offload_device()
        self.patcher = patcher_class(network, load_device=self.device, offload_device=offload_device)
        fill(network, weights, source, is_dynamic=self.patcher.is_dynamic())

    def describe(self) -> None:
        """Set what ComfyUI asks a VAE for, where that is not what it takes a picture's VAE for."""

    @abstractmethod
    def build(self, weights: Mapping[str, Tensor], shapes: Shapes, layers: Ops) -> Any:
        """The empty network."""

    @abstractmethod
    def _decode_memory(self, shape: Any, dtype: torch.dtype) -> float:
        """Bytes of activations, by the shape of the latents."""

    @abstractmethod
    def _encode_memory(self, shape: Any, dtype: torch.dtype) -> float:
        """Bytes of activations, by the shape of the pixels."""

    def _load(self, memory: float) -> None:
        model_management.load_models_gpu([self.patcher], memory_required=memory)
        self.first_stage_model.device = self.device
