"""LoRAs of CogVideoX as ComfyUI's patches, so that memory and offloading are those of any LoRA."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.lora
import torch
from comfy import model_base
from comfy.model_patcher import ModelPatcher
from comfy.weight_adapter.lora import LoRAAdapter
from torch import Tensor

from ...exvideo_core.errors import ExVideoError
from ...exvideo_core.lora import LoRAPair, LoRAReport, fit_lora, read_lora
from ...exvideo_core.nn.out_of_memory import DeviceMemoryError
from ...exvideo_core.weights.assign import shapes_of
from .model import CogVideoXModel

_STOCK = getattr(model_base, "CogVideoX", None)  # ComfyUI's own class, since 0.30
_MISPLACED = (
    "WARNING: this MODEL was made by ComfyUI's own loader. Its CogVideoX class counts rows and columns of "
    "CogVideoX-5B 1.0 {scale:g} times too far apart, so the video will be worse than it should be. To avoid that, load "
    "the transformer with Load ExVideo CogVideoX."
)


def apply(model: ModelPatcher, path: Path, strength: float) -> tuple[ModelPatcher, str]:
    """A clone with the LoRA added, and a report in words.

    Raises:
        ExVideoError: the model is not CogVideoX.
        CheckpointError: the file is no whole LoRA of CogVideoX, or does not fit this model in every part.
    """
    _check_model(model)
    lora = read_lora(path)
    shapes = shapes_of(model.model.state_dict())
    patched = model.clone()
    patched.add_patches(_patches(fit_lora(lora, shapes)), strength)
    report = LoRAReport.of(lora, strength)
    return patched, "\n".join([f"{report}.", *_warnings(model)])


def _check_model(model: ModelPatcher) -> None:
    ours = CogVideoXModel if _STOCK is None else CogVideoXModel | _STOCK
    if not isinstance(model.model, ours):
        raise ExVideoError(
            f"this model is {type(model.model).__name__}, and the LoRA is for CogVideoX-5B. Load that with Load "
            f"ExVideo CogVideoX. (SVD is extended by a file of its own, chosen in Load ExVideo SVD.)"
        )


def _patches(pairs: dict[str, LoRAPair]) -> dict[str, object]:
    """Patches for `add_patches`, made by ComfyUI from its generic naming."""
    spelled: dict[str, torch.Tensor] = {}
    for name, pair in pairs.items():
        spelled |= {f"{name}.lora_up.weight": pair.up, f"{name}.lora_down.weight": pair.down}
        if pair.alpha is not None:
            spelled[f"{name}.alpha"] = torch.tensor(pair.alpha)
    made = comfy.lora.load_lora(spelled, {name: name for name in pairs}, log_missing=False)
    return {name: _StrictAdapter(adapter.loaded_keys, adapter.weights) for name, adapter in made.items()}


class _StrictAdapter(LoRAAdapter):
    """ComfyUI's adapter, but failing is an error; ComfyUI logs it and leaves the LoRA out of that weight."""

    def calculate_weight(
        self,
        weight: Tensor,
        key: str,
        strength: float,
        strength_model: float,
        offset: Any,
        function: Callable[[Tensor], Tensor],
        *others: Any,
        **named: Any,
    ) -> Tensor:
        computed = []

        def record(change: Tensor) -> Tensor:
            computed.append(function(change))
            return change.new_zeros(())  # added below, where an error is not caught

        patched: Tensor = super().calculate_weight(
            weight, key, strength, strength_model, offset, record, *others, **named
        )
        if not computed:
            raise DeviceMemoryError(
                f"out of memory while adding the LoRA to {key}. Choose ExVideo Sampler's preset low memory; then "
                f"lower width and height, then frames."
            )
        return patched.add_(computed[0])


def _warnings(model: ModelPatcher) -> list[str]:
    if _STOCK is None or not isinstance(model.model, _STOCK):
        return []
    network = model.model.diffusion_model
    scale = network.spatial_interpolation_scale
    return [_MISPLACED.format(scale=scale)] if network.use_rotary_positional_embeddings and scale != 1 else []
