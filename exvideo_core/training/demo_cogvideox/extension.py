"""ExVideo's post-tuning of the demo: a LoRA that takes the transformer from 13 latent frames to 33, all else frozen."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...lora import LoRA, LoRAPair, attach, new_lora
from ...models.cogvideox.transformer import CogVideoXTransformer
from .transformer import BASE_FRAMES, Prompts, draw_times, velocity_loss

EXTENDED_FRAMES = 33  # latent frames: 129 frames
_RANK = 32


class Extension(nn.Module):
    """The LoRA's factors, at work beside a transformer's weights."""

    def __init__(self, transformer: CogVideoXTransformer, seed: int) -> None:
        super().__init__()
        lora = new_lora(transformer, rank=_RANK, generator=torch.Generator().manual_seed(seed))
        self._attached = attach(transformer, lora)
        self.factors = nn.ParameterList(self._attached.parameters())

    def lora(self, weights: dict[str, Tensor]) -> LoRA:
        """The LoRA with these values of the factors, named as in this module's state."""
        values = iter([weights[f"factors.{number}"] for number in range(len(self.factors))])
        pairs = {name: LoRAPair(next(values), next(values)) for name in self._attached.pairs}
        return LoRA(pairs, source="the demo model's extension")


def extension_loss(
    transformer: CogVideoXTransformer, prompts: Prompts, step: int, steps: int, generator: torch.Generator
) -> Tensor:
    """One step: single latent frames of the long clip first, then also parts of it and the whole."""
    if step < 0.4 * steps or step % 4 == 0:
        clips, frames = 64, 1
    elif step % 4 == 1:
        clips, frames = 5, BASE_FRAMES
    else:
        clips, frames = 2, EXTENDED_FRAMES
    return velocity_loss(transformer, prompts, draw_times(clips, frames, EXTENDED_FRAMES, generator), generator)
