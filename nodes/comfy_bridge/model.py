"""A family's network as ComfyUI's model object."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from comfy import model_base, supported_models_base
from torch import Tensor

from ...exvideo_core.estimate.counting import Counts
from ...exvideo_core.estimate.jobs import Estimates
from .compiling import chains_instead
from .network import HostedNetwork, Options


class HostedModelConfig(supported_models_base.BASE):
    """ComfyUI's model config of a network that is sized by its file.

    Args:
        sizes: of the network.
        dtype: of the weights.
        manual_cast_dtype: of the activations, where it is another one.
        layout: more entries for `unet_config`, by which ComfyUI matches the layers of a LoRA.
    """

    def __init__(self, sizes: Any, dtype: torch.dtype, manual_cast_dtype: torch.dtype | None, **layout: Any) -> None:
        super().__init__({"sizes": sizes, "compute_dtype": manual_cast_dtype or dtype, **layout})
        self.sizes = sizes
        self.set_inference_dtype(dtype, manual_cast_dtype)


class HostedModel(model_base.BaseModel):
    """ComfyUI's model object of a family; a subclass adds noise levels, conditioning, and what a call needs.

    Attributes:
        config_class: the family's `HostedModelConfig`.
        sizes_class: the core's configuration of the network, with `from_shapes`.
        network_class: the family's `HostedNetwork`.
        prediction: ComfyUI's type of the noise levels.
        estimates: the core's for this family.
        sizes: of this network.
    """

    config_class: ClassVar[Any]
    sizes_class: ClassVar[Any]
    network_class: ClassVar[type[HostedNetwork]]
    prediction: ClassVar[model_base.ModelType]
    estimates: ClassVar[Estimates]

    def __init__(self, config: HostedModelConfig, device: Any = None) -> None:
        super().__init__(config, self.prediction, device=device, unet_model=self.network_class)
        self.sizes = config.sizes

    def _apply_model(self, *args: Any, **conditions: Any) -> Tensor:
        with chains_instead(self):
            return super()._apply_model(*args, **conditions)

    def memory_required(self, input_shape: Sequence[int], cond_shapes: Any = None) -> float:
        """Bytes of activations, by which ComfyUI decides how much to load and whether to batch cond and uncond."""
        return self.count_call(input_shape).peak

    @abstractmethod
    def count_call(self, shape: Sequence[int], options: Options = MappingProxyType({})) -> Counts:
        """Work and memory of a forward pass over latents of this shape, with these `transformer_options`."""
