"""Train the embedded demo model from nothing: `python -m tools.demo_models.svd --out DIR`.

Four stages, each of which can be killed and resumes when the command is run again. The weight file in DIR is
written after the last stage (or with `--export` at any time, from what there is). Its extension is then
trained as any other: `exvideo train samples/training/demo_svd.yaml`.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from exvideo_core.families.svd.files import DEMO_CHECKPOINT
from exvideo_core.families.svd.image_encoder import ImageEncoder
from exvideo_core.families.svd.save import published_layout
from exvideo_core.families.svd.vae import VAE
from exvideo_core.training.procedural.pictures import Pictures
from exvideo_core.training.randomness import generator_of
from exvideo_core.weights.formats import converted
from exvideo_core.weights.write import write_weights

from ..loop import LoopConfig, Run
from .autoencoder import (
    Autoencoder,
    Components,
    assemble,
    autoencoder_loss,
    decoder_loss,
    latent_spread,
    steadying_loss,
)
from .gallery import FreshGallery
from .preview_colours import fit_autoencoder, notes
from .unet import DEMO_IMAGE_ENCODER, base_loss, still_unet, whole_unet

Weights = dict[str, Tensor]


_AUTOENCODER = LoopConfig(steps=1000, muon_lr=0.015)
_DECODER = LoopConfig(steps=1000, muon_lr=0.012, adam_lr=1.2e-3, hold=0.1)
_STEADYING = LoopConfig(steps=500, muon_lr=0.006, adam_lr=1e-3, average=0.98, hold=0.2)
_BASE = LoopConfig(steps=800)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that decides what comes out; the default is the shipped file's, but for restarts (docs/demo_model.md)."""

    seed: int = 0
    leaves: int = 120  # drawn pictures
    measured: int = 200  # pictures that the latents' components and spread are taken from
    gallery: int = 384  # encoded pictures kept; two are replaced at every step
    autoencoder: LoopConfig = _AUTOENCODER
    decoder: LoopConfig = _DECODER
    steadying: LoopConfig = _STEADYING
    base: LoopConfig = _BASE
    base_frames: int = 32  # a step

    def shortened(self, steps: int) -> Recipe:
        """At most so many steps in every stage: to see that everything runs."""
        stages = ("autoencoder", "decoder", "steadying", "base")
        short = {
            stage: dataclasses.replace(getattr(self, stage), steps=min(steps, getattr(self, stage).steps))
            for stage in stages
        }
        return dataclasses.replace(self, **short)


class DemoTraining:
    """The stages, in the folder their files are kept in."""

    def __init__(self, recipe: Recipe, folder: Path, pictures: Pictures | None = None) -> None:
        self.recipe, self.folder = recipe, folder
        self.pictures = pictures or Pictures(leaves=recipe.leaves, seed=recipe.seed)
        folder.mkdir(parents=True, exist_ok=True)

    def train(self) -> None:
        """All stages; finished ones are only read."""
        self.train_autoencoder()
        self.train_decoder()
        self.train_steadying()
        self.train_base()
        self.export(self.folder)

    def train_autoencoder(self) -> None:
        """Both halves, from nothing."""
        config = self.recipe.autoencoder
        components = Components(self.pictures.crops(self.recipe.measured, 128, generator_of(self.recipe.seed, 1)))
        model = self._autoencoder()
        self._run(model, config, "autoencoder").train(
            lambda step, generator: autoencoder_loss(model, self.pictures, components, step, config.steps, generator)
        )

    def train_decoder(self) -> None:
        """The decoder goes on; the encoder stays, so that the UNet's latents do."""
        model = self._autoencoder()
        model.load_state_dict(self._weights("autoencoder"))
        model.vae.encoder.requires_grad_(False)
        model.quant_conv.requires_grad_(False)
        self._run(model, self.recipe.decoder, "decoder").train(
            lambda _, generator: decoder_loss(model, self.pictures, generator)
        )

    def train_steadying(self) -> None:
        """The decoder's layers over time, all else frozen."""
        still = self._autoencoder().requires_grad_(False).eval()
        still.load_state_dict(self._weights("decoder"))
        steadied = Autoencoder(steadied=True)
        steadied.load_state_dict(still.state_dict(), strict=False)
        for name, p in steadied.named_parameters():
            p.requires_grad_(".time_stack." in name)
        self._run(steadied, self.recipe.steadying, "steadying").train(
            # small pictures are cheap, but norms must end up used to whole ones
            lambda step, generator: steadying_loss(steadied, still, self.pictures, 64 if step % 3 else 128, generator)
        )

    def train_base(self) -> None:
        """The UNet on single frames, at the places of a short clip."""
        torch.manual_seed(self.recipe.seed)
        unet = still_unet()
        gallery = self._gallery()
        self._run(unet, self.recipe.base, "base").train(
            lambda step, generator: base_loss(unet, gallery, step, self.recipe.base_frames, generator)
        )

    def export(self, folder: Path) -> None:
        """Write the file from the stages there are."""
        base = whole_unet(self._weights("base")).state_dict()
        image_encoder = self._image_encoder().clip.state_dict()
        vae = self._vae()
        parts = [converted(part, torch.float16) for part in (base, vae.state_dict(), image_encoder)]
        colours = fit_autoencoder(vae, self.pictures.crops(16, 128, generator_of(self.recipe.seed, 3)))
        write_weights(folder / DEMO_CHECKPOINT.name, published_layout(*parts), notes(*colours))

    def _run(self, model: torch.nn.Module, config: LoopConfig, stage: str) -> Run:
        return Run(model, dataclasses.replace(config, seed=self.recipe.seed + config.seed), self._file(stage))

    def _file(self, stage: str) -> Path:
        return self.folder / f"{stage}.pt"

    def _weights(self, stage: str) -> Weights:
        """A stage's averaged weights."""
        weights: Weights = torch.load(self._file(stage), weights_only=True)["average"]["weights"]
        return weights

    def _autoencoder(self) -> Autoencoder:
        torch.manual_seed(self.recipe.seed)
        return Autoencoder()

    def _vae(self) -> VAE:
        """With the last decoder there is."""
        model = self._autoencoder().eval()
        model.load_state_dict(self._weights("autoencoder"))
        last = next(stage for stage in ("steadying", "decoder", "autoencoder") if self._file(stage).exists())
        return assemble(
            self._weights(last), latent_spread(model, self.pictures, self.recipe.measured, self.recipe.seed)
        )

    def _image_encoder(self) -> ImageEncoder:
        torch.manual_seed(self.recipe.seed)
        return ImageEncoder(DEMO_IMAGE_ENCODER).requires_grad_(False)

    def _gallery(self) -> FreshGallery:
        vae = self._vae().requires_grad_(False)
        return FreshGallery(self.pictures, vae, self._image_encoder(), self.recipe.gallery, seed=self.recipe.seed)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tools.demo_models.svd", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the weights and for what a restart needs")
    parser.add_argument("--steps", type=int, help="at most so many in every stage, to see that it runs")
    parser.add_argument("--export", action="store_true", help="only write the weight file, from the stages there are")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    torch.set_num_threads(1)  # more threads than free cores make a step 15 times slower
    recipe = Recipe() if given.steps is None else Recipe().shortened(given.steps)
    training = DemoTraining(recipe, given.out)
    if given.export:
        training.export(given.out)
    else:
        training.train()
    return 0


if __name__ == "__main__":
    sys.exit(main())
