"""Adding LoRAs to a transformer's weights, and taking them out again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..families.cogvideox import detect
from ..families.cogvideox.lora_keys import layer_name
from ..nn.out_of_memory import explained
from ..weights.detect import UNKNOWN, identify
from ..weights.kind import FileKind, Shapes
from .files import LoRA, LoRAPair, read_lora


@dataclass(frozen=True, kw_only=True)
class LoRAReport:
    """What a LoRA did.

    Attributes:
        applied: tensors of the file that changed weights: two factors for each weight, and its alpha where it has one.
        unused: tensors of the file that changed nothing; applied + unused is all of the file.
        weights: weights of the transformer that were changed.
        rank: of all pairs, or every rank there is, ascending.
        strength: factor on all of it.
        source: the file.
    """

    applied: int
    unused: int
    weights: int
    rank: int | tuple[int, ...]
    strength: float
    source: str

    @classmethod
    def of(cls, lora: LoRA, strength: float) -> LoRAReport:
        """The report of a LoRA that was applied; one that applies in part is refused, so all its pairs count."""
        return cls(
            applied=lora.num_tensors,
            unused=len(lora.unused),
            weights=len(lora.pairs),
            rank=lora.rank,
            strength=strength,
            source=lora.source,
        )

    def __str__(self) -> str:
        rank = self.rank if isinstance(self.rank, int) else " and ".join(map(str, self.rank))
        return (
            f"{self.source}: {self.applied} tensors of rank {rank} applied to {self.weights} weights at strength "
            f"{self.strength:g}, {self.unused} tensors unused"
        )


class HasTransformer(Protocol):
    """A pipeline, as far as LoRAs care."""

    @property
    def transformer(self) -> nn.Module: ...


def apply_lora(pipe: HasTransformer, path: str | Path, strength: float = 1.0) -> LoRAReport:
    """Read a LoRA and merge it into a pipeline's transformer; `remove_loras(pipe.transformer)` takes it out again.

    Args:
        pipe: a CogVideoX pipeline.
        path: a .safetensors file in any spelling.
        strength: factor; negative takes the LoRA's effect away from the model.

    Raises:
        CheckpointError: the file is no whole LoRA of CogVideoX, or does not fit; nothing was changed.
    """
    return merge(pipe.transformer, read_lora(path), strength)


# does it fit


def fit_lora(lora: LoRA, shapes: Shapes) -> dict[str, LoRAPair]:
    """Give each pair the name its weight has in a model, after checking that all of them fit.

    Args:
        lora: what to fit.
        shapes: names and shapes of the model's weights, spelled as in diffusers or in ComfyUI's own class, with or
            without a prefix such as `diffusion_model.`; others are ignored.

    Raises:
        CheckpointError: the model is no text-to-video CogVideoX 1.0, or a pair's weight is missing or has another
            shape; with the counts of tensors, first names, and what to choose.
    """
    spelled = {
        f"{layer}.weight": name
        for name in shapes
        if name.endswith(".weight") and (layer := layer_name(name.removesuffix(".weight")))
    }
    model = identify({ours: shapes[theirs] for ours, theirs in spelled.items()})
    if model.kind in (detect.IMAGE_TO_VIDEO, detect.TRANSFORMER_1_5):  # the shapes would fit
        raise CheckpointError(f"{lora.source} does not fit {model.what}; {model.where}. Nothing was changed.")
    missing = [name for name in lora.pairs if name not in spelled]
    differing = [
        name
        for name, pair in lora.pairs.items()
        if name in spelled and pair.size != _flat(shapes[spelled[name]])
    ]  # fmt: skip
    if missing or differing:
        complaints = []
        if missing:
            complaints.append(f"{len(missing)} weights are missing in the model (first: {missing[0]})")
        if differing:
            first = differing[0]
            complaints.append(
                f"{len(differing)} have another shape (first: {first} is {list(_flat(shapes[spelled[first]]))}, "
                f"the LoRA is for {list(lora.pairs[first].size)})"
            )
        raise _misfit(lora, model, {*missing, *differing}, complaints)
    return {spelled[name]: pair for name, pair in lora.pairs.items()}


def _flat(shape: tuple[int, ...]) -> tuple[int, int]:
    """(outputs, inputs), a kernel's cells counted as inputs."""
    return shape[0], math.prod(shape[1:])


def _misfit(lora: LoRA, model: FileKind, unfit: set[str], complaints: list[str]) -> CheckpointError:
    refused = sum(2 + (lora.pairs[name].alpha is not None) for name in unfit)
    what = "this model" if model.kind is UNKNOWN else model.what
    advice = {
        detect.TRANSFORMER_2B: model.where,
        detect.TRANSFORMER: "choose the transformer this LoRA was made for; ExVideo's is THUDM/CogVideoX-5b",
    }.get(model.kind, "choose a LoRA that was made for this model, or the transformer of THUDM/CogVideoX-5b")
    return CheckpointError(
        f"{lora.source} does not fit {what}: {lora.num_tensors - refused} of its tensors would apply and {refused} "
        f"would not; {', '.join(complaints)}; {advice}. Nothing was changed."
    )


# merging


_ADVICE = "The model is as it was before. Load it with stream=True (--stream), or attach fewer LoRAs."

# What `merge` leaves on a module so that it can be undone: the weights it replaced, by name. A plain attribute, so no
# state_dict has it, and copies of the module keep their own.
_ORIGINALS = "_weights_before_loras"


@torch.inference_mode(False)  # what is made in inference mode could never be trained
def merge(module: nn.Module, lora: LoRA, strength: float = 1.0) -> LoRAReport:
    """Add strength * scale * up @ down to the weights; several LoRAs add up.

    The product and the sum are formed in the weights' own number format, as DiffSynth 1.1.9 does (models/lora.py,
    GeneralLoRAFromPeft), so that results are the same bits; fp8 weights pass through float32. Memory mapped from
    files is not written to: a changed weight is a new tensor, and the one it replaces is kept (in main memory, if it
    was on a GPU), so a merge costs memory of the size of the changed weights. If it is interrupted or runs out of
    memory, the module is as it was before.

    Args:
        module: a transformer with our names.
        lora: what to add.
        strength: factor on all of it.

    Raises:
        CheckpointError: the LoRA does not fit, or fits only in part; nothing was changed.
        DeviceMemoryError: memory ended; nothing was changed.
    """
    weights = dict(module.named_parameters())
    fitted = fit_lora(lora, {name: tuple(weight.shape) for name, weight in weights.items()})
    originals: dict[str, Tensor] = vars(module).get(_ORIGINALS, {})
    before: dict[str, Tensor] = {}
    try:
        with explained(f"{lora.source} was merged", _ADVICE):
            for name, pair in fitted.items():
                before[name] = weights[name].data.cpu()
                weights[name].data = _changed(weights[name].data, pair, strength)
    except BaseException:  # also Cancel: half a LoRA is worse than none
        _put_back(weights, before)
        raise
    vars(module)[_ORIGINALS] = before | originals
    return LoRAReport.of(lora, strength)


def _changed(weight: Tensor, pair: LoRAPair, strength: float) -> Tensor:
    dtype = weight.dtype if weight.dtype.itemsize > 1 else torch.float32
    up, down = (factor.detach().to(weight.device, dtype) for factor in (pair.up, pair.down))
    change = strength * pair.scale * torch.mm(up.flatten(1), down.flatten(1))
    return (weight.to(dtype) + change.view_as(weight)).to(weight.dtype)


@torch.inference_mode(False)
def remove_loras(module: nn.Module) -> None:
    """Give every weight back exactly what it was before the first `merge`, wherever the module is now."""
    originals: dict[str, Tensor] = vars(module).get(_ORIGINALS, {})
    _put_back(dict(module.named_parameters()), originals)
    vars(module).pop(_ORIGINALS, None)  # only now are they not needed any more


def _put_back(weights: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        weight = weights[name]
        if (value.device, value.dtype) == (weight.device, weight.dtype):
            weight.data = value
        else:
            weight.data.copy_(value)  # in its own memory, as there may be no other left
