"""Pictures that the base is trained on: some are replaced at every step.

Shapes: N pictures, C channels, H and W latent cells, D channels of an embedding.
"""

from __future__ import annotations

import torch

from exvideo_core.families.svd.image_encoder import ImageEncoder
from exvideo_core.families.svd.procedural import Gallery
from exvideo_core.families.svd.vae import VAE
from exvideo_core.training.procedural.pictures import Pictures


class FreshGallery(Gallery):
    """Encoded pictures, of which `fresh` are replaced at every step; the contents depend on the step alone."""

    def __init__(
        self, pictures: Pictures, vae: VAE, image_encoder: ImageEncoder, size: int = 384, fresh: int = 2, seed: int = 0
    ) -> None:
        super().__init__(pictures, vae, image_encoder, size, seed)
        self.fresh = fresh
        self._numbers = list(range(size))

    @torch.no_grad()
    def at(self, step: int) -> FreshGallery:
        """The gallery at a step."""
        newest = self.size + self.fresh * step
        numbers = [newest - 1 - (newest - 1 - slot) % self.size for slot in range(self.size)]
        for slot, number in enumerate(numbers):
            if self._numbers[slot] != number:
                self.latents_NCHW[slot], self.context_ND[slot] = self.encode(number)
        self._numbers = numbers
        return self
