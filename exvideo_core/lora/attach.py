"""LoRAs that run beside the weights, for training and comparisons: y = W x + strength * scale * up(down(x))."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..weights.assign import shapes_of
from .apply import fit_lora
from .files import LoRA, LoRAPair

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")  # layers of ExVideo's LoRA (inferred from its trainer's defaults)
_LAYERS = (nn.Linear, nn.Conv2d)


def new_lora(
    module: nn.Module,
    targets: Sequence[str] = ATTENTION,
    *,
    rank: int,
    alpha: float | None = None,
    generator: torch.Generator | None = None,
) -> LoRA:
    """Initialise a LoRA that changes nothing yet: down is Gaussian with std 1 / rank, as in peft, and up is zero.

    Args:
        module: a transformer with our names; the factors are float32, on the CPU.
        targets: ends of the names of the layers to change.
        rank: r.
        alpha: the LoRA is multiplied by alpha / rank; None is a factor of 1.
        generator: of the Gaussian values.
    """
    pairs: dict[str, LoRAPair] = {}
    for name, layer in module.named_modules():
        if isinstance(layer, _LAYERS) and any(_ends_with(name, target) for target in targets):
            outputs, inputs, *kernel = layer.weight.shape
            down = torch.empty(rank, inputs, *kernel).normal_(std=1 / rank, generator=generator)
            pairs[f"{name}.weight"] = LoRAPair(down, torch.zeros(outputs, rank, *(1 for _ in kernel)), alpha)
    if unknown := [target for target in targets if not any(_ends_with(name, f"{target}.weight") for name in pairs)]:
        raise ValueError(f"no layer's name ends with {unknown}")
    return LoRA(pairs, source="a new LoRA")


def _ends_with(name: str, end: str) -> bool:
    return f".{name}".endswith(f".{end}")


class Factors(nn.Module):
    """The pair beside one layer, scale * up(down(x)), float32 on the layer's device.

    It is a module of its own, so that it can be sharded or converted like any other.
    """

    def __init__(self, layer: nn.Module, pair: LoRAPair) -> None:
        super().__init__()
        weight = layer.weight
        assert isinstance(weight, Tensor)
        self.down, self.up = (
            nn.Parameter(factor.detach().to(weight.device, torch.float32, copy=True)) for factor in (pair.down, pair.up)
        )
        self.alpha, self.scale = pair.alpha, pair.scale
        self._layer = [layer]  # in a list, so that it is not registered as a submodule

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_autocast_enabled(x.device.type):  # otherwise autocast decides
            x = x.to(self.down.dtype)
        layer = self._layer[0]
        if not isinstance(layer, nn.Conv2d):
            return self.scale * F.linear(F.linear(x, self.down), self.up)
        down = self.down.view(len(self.down), *layer.weight.shape[1:])  # works like the layer itself
        hidden = F.conv2d(x, down, None, layer.stride, layer.padding, layer.dilation)
        return self.scale * F.conv2d(hidden, self.up.flatten(1)[:, :, None, None])


class AttachedLoRA:
    """A LoRA that runs beside a transformer's layers until `detach`, with trainable copies of its factors.

    The module's own names, weights and state_dict do not change; its weights no longer require gradients. Autocast
    decides in which dtype the factors are applied; without it that is float32.

    Attributes:
        factors: by weight.
        strength: factor on the whole LoRA; may be changed between calls of the module.

    Raises:
        CheckpointError: the LoRA does not fit, or fits only in part; nothing was changed.
    """

    def __init__(self, module: nn.Module, lora: LoRA, strength: float = 1.0) -> None:
        fit_lora(lora, shapes_of(dict(module.named_parameters())))
        layers = {name: module.get_submodule(name.removesuffix(".weight")) for name in lora.pairs}
        if norms := [name for name, layer in layers.items() if not isinstance(layer, _LAYERS)]:
            raise ValueError(f"{norms[0]} is no weight of a linear layer or convolution: its LoRA can only be merged")
        self.strength = strength
        self.factors = {name: Factors(layers[name], pair) for name, pair in lora.pairs.items()}
        self._source = lora.source
        self._frozen = [weight for weight in module.parameters() if weight.requires_grad]
        for weight in self._frozen:
            weight.requires_grad_(False)
        self._hooks = [
            layers[name].register_forward_hook(partial(self._add, factors)) for name, factors in self.factors.items()
        ]

    def _add(self, factors: Factors, _layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        return (output + self.strength * factors(inputs[0])).to(output.dtype)

    def lora(self) -> LoRA:
        """The factors as they are now, for `save_lora` and `merge`; later training does not change them."""
        pairs = {
            name: LoRAPair(factors.down.detach().clone(), factors.up.detach().clone(), factors.alpha)
            for name, factors in self.factors.items()
        }
        return LoRA(pairs, self._source)

    def detach(self) -> None:
        """Restore the module: without the LoRA, and with `requires_grad` as before."""
        for hook in self._hooks:
            hook.remove()
        for weight in self._frozen:
            weight.requires_grad_(True)
        self._hooks, self._frozen = [], []


attach = AttachedLoRA
