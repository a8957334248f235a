"""Merging LoRAs into a transformer's weights, and removing them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..nn.out_of_memory import explained
from ..weights.assign import different, misfit, shapes_of
from ..weights.detect import UNKNOWN, identify
from ..weights.kind import Shapes
from .files import LoRA, LoRAPair, read_lora
from .keys import keys_for


@dataclass(frozen=True, kw_only=True)
class LoRAReport:
    """How many tensors of a LoRA were applied."""

    applied: int  # tensors of the file that changed weights: two factors for each weight, and its alpha if it has one
    unused: int  # tensors of the file that changed nothing; applied + unused is the whole file
    weights: int  # of the transformer that were changed
    rank: int | tuple[int, ...]  # of all pairs, or every rank there is, ascending
    strength: float  # factor on the whole LoRA
    source: str  # the file

    @classmethod
    def of(cls, lora: LoRA, strength: float) -> LoRAReport:
        """Report a LoRA that was applied. One that fits only in part is refused, so all its pairs count."""
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
    """A pipeline whose transformer takes LoRAs."""

    @property
    def transformer(self) -> nn.Module: ...


def apply_lora(pipe: HasTransformer, path: str | Path, strength: float = 1.0) -> LoRAReport:
    """Read a LoRA and merge it into a pipeline's transformer; `remove_loras(pipe.transformer)` undoes it.

    Args:
        pipe: such as a CogVideoX pipeline.
        path: a .safetensors file in any spelling.
        strength: factor; a negative one subtracts the LoRA's effect from the model.

    Raises:
        CheckpointError: the file is no whole LoRA of the model, or does not fit; nothing was changed.
    """
    return merge(pipe.transformer, read_lora(path), strength)


# does it fit


def fit_lora(lora: LoRA, shapes: Shapes) -> dict[str, LoRAPair]:
    """Give each pair the name its weight has in a model, after checking that all of them fit.

    Args:
        shapes: names and shapes of the model's weights, spelled as in diffusers or in ComfyUI's own class, with or
            without a prefix such as `diffusion_model.`; others are ignored.

    Raises:
        CheckpointError: LoRAs are not for this kind of model, or a pair's weight is missing or has another shape;
            with the counts of tensors, first names, and what to choose.
    """
    keys = keys_for(lora.pairs)
    spelled = {ours: name for name in shapes if (ours := keys.weight_name(name))}
    sizes = {ours: shapes[name] for ours, name in spelled.items()}
    model = identify(sizes)
    if model.kind in keys.refused:  # although the shapes may fit
        raise CheckpointError(f"{lora.source} does not fit {model.what}; {model.kind.where}. Nothing was changed.")
    missing = [name for name in lora.pairs if name not in sizes]
    flat = {name: (shape[0], math.prod(shape[1:])) for name, shape in sizes.items()}  # a kernel's cells are inputs
    differing = different({name: pair.size for name, pair in lora.pairs.items()}, flat)
    if missing or differing:
        refused = sum(lora.pairs[name].num_tensors for name in (*missing, *differing))
        what = "this model" if model.kind is UNKNOWN else model.what
        raise CheckpointError(
            f"{lora.source} does not fit {what}: {lora.num_tensors - refused} of its tensors would apply and {refused} "
            f"would not; in the model, {misfit(missing, (), differing)}; {keys.hint(model)}. Nothing was changed."
        )
    return {spelled[name]: pair for name, pair in lora.pairs.items()}


# merging


_HINT = "The model is unchanged. Load it with stream=True (--stream), or attach fewer LoRAs."

# Attribute that `merge` leaves on a module: the weights it replaced, by name. It is not part of the state_dict, and
# copies of the module keep their own.
_ORIGINALS = "_weights_before_loras"


@torch.inference_mode(False)  # tensors made in inference mode could never be trained
def merge(module: nn.Module, lora: LoRA, strength: float = 1.0) -> LoRAReport:
    """Add strength * scale * up @ down to the weights; several LoRAs add up.

    The product and the sum are computed in the weights' dtype, as DiffSynth 1.1.9 does (models/lora.py,
    GeneralLoRAFromPeft), so that the result has the same bits; fp8 weights go through float32. Memory mapped from
    files is not written to: a changed weight is a new tensor, and the original is kept (in main memory, if it was on
    a GPU), so a merge costs as much memory as the changed weights. If it is interrupted or runs out of memory, the
    module is as it was before.

    Args:
        module: a transformer with our names.
        strength: factor on the whole LoRA.

    Raises:
        CheckpointError: the LoRA does not fit, or fits only in part; nothing was changed.
        DeviceMemoryError: out of memory; nothing was changed.
    """
    weights = dict(module.named_parameters())
    fitted = fit_lora(lora, shapes_of(weights))
    before: dict[str, Tensor] = {}
    try:
        with explained(f"merging {lora.source}", _HINT):
            for name, pair in fitted.items():
                before[name] = weights[name].data.cpu()
                weights[name].data = _merged(weights[name].data, pair, strength)
    except BaseException:  # also Cancel: half a LoRA is worse than none
        _restore(weights, before)
        raise
    vars(module)[_ORIGINALS] = before | vars(module).get(_ORIGINALS, {})
    return LoRAReport.of(lora, strength)


def _merged(weight: Tensor, pair: LoRAPair, strength: float) -> Tensor:
    dtype = weight.dtype if weight.dtype.itemsize > 1 else torch.float32
    up, down = (factor.detach().to(weight.device, dtype) for factor in (pair.up, pair.down))
    change = strength * pair.scale * torch.mm(up.flatten(1), down.flatten(1))
    return (weight.to(dtype) + change.view_as(weight)).to(weight.dtype)


@torch.inference_mode(False)
def remove_loras(module: nn.Module) -> None:
    """Restore every weight bit for bit to its value before the first `merge`, wherever the module is now."""
    _restore(dict(module.named_parameters()), vars(module).get(_ORIGINALS, {}))
    vars(module).pop(_ORIGINALS, None)  # not before they are all restored


def _restore(weights: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        weight = weights[name]
        if (value.device, value.dtype) == (weight.device, weight.dtype):
            weight.data = value
        else:
            weight.data.copy_(value)  # in place: a new tensor may not fit
