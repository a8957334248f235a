"""The stages of the CogVideoX demo model, in a folder that a restart finds its files in."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from exvideo_core.families.cogvideox.files import DEMO_TEXT_ENCODER, DEMO_TRANSFORMER, DEMO_VAE
from exvideo_core.families.cogvideox.transformer import CogVideoXTransformer
from exvideo_core.families.cogvideox.vae import CogVideoXVAE
from exvideo_core.training.procedural.shapes import SIDE
from exvideo_core.weights.formats import converted
from exvideo_core.weights.write import write_weights

from ..loop import LoopConfig, Run
from .autoencoder import autoencoder_loss, newborn_vae, refining_loss
from .small_pictures import preview_factors
from .text import TextLesson, text_loss
from .transformer import Prompts, base_loss, trainee

Weights = dict[str, Tensor]
STAGES = ("text", "vae", "decoder", "base")  # the second and third depend on no other

_TEXT = LoopConfig(steps=400, muon_lr=0.01, adam_lr=3e-3)
_VAE = LoopConfig(steps=2400, muon_lr=0.012)
_DECODER = LoopConfig(steps=1000, muon_lr=0.006, adam_lr=1e-3, hold=0.2)
_BASE = LoopConfig(steps=4000, muon_lr=0.01, average=0.995, save_every=100)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that decides what comes out."""

    seed: int = 0
    text: LoopConfig = _TEXT
    vae: LoopConfig = _VAE
    decoder: LoopConfig = _DECODER
    base: LoopConfig = _BASE

    def shortened(self, steps: int) -> Recipe:
        """At most so many steps in every stage: to see that everything runs."""
        short = {
            stage: dataclasses.replace(getattr(self, stage), steps=min(steps, getattr(self, stage).steps))
            for stage in STAGES
        }
        return dataclasses.replace(self, **short)


class DemoTraining:
    """The stages; finished ones are only read."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe, self.folder = recipe, folder
        folder.mkdir(parents=True, exist_ok=True)

    def train(self) -> None:
        """All of them, then the three files."""
        for stage in STAGES:
            getattr(self, f"train_{stage}")()
        self.export(self.folder)

    def train_text(self) -> None:
        """The text encoder."""
        lesson = self._lesson()
        self._run(lesson, "text").train(lambda _, generator: text_loss(lesson, 16, generator))

    def train_vae(self) -> None:
        """The autoencoder's two halves."""
        vae, steps = self._vae(), self.recipe.vae.steps
        self._run(vae, "vae").train(lambda step, generator: autoencoder_loss(vae, step, steps, generator))

    def train_decoder(self) -> None:
        """The decoder goes on alone, on whole pictures."""
        vae = self._vae()
        vae.load_state_dict(self._weights("vae"))
        vae.encoder.requires_grad_(False)
        self._run(vae, "decoder").train(lambda _, generator: refining_loss(vae, 1, SIDE, generator))

    def train_base(self) -> None:
        """The transformer, on 13 latent frames."""
        model, prompts, steps = self._trainee(), self._prompts(), self.recipe.base.steps
        self._run(model, "base").train(lambda step, generator: base_loss(model, prompts, step, steps, generator))

    def export(self, folder: Path) -> None:
        """Write the three files, in the published layouts, from the stages there are."""
        lesson = self._lesson()
        lesson.load_state_dict(self._weights("text"))
        note = {"latent_rgb_factors": json.dumps(preview_factors().tolist())}
        write_weights(folder / DEMO_TEXT_ENCODER.name, converted(lesson.finished(), torch.float16))
        write_weights(
            folder / DEMO_VAE.name,
            converted(self._weights("decoder" if self._file("decoder").exists() else "vae"), torch.float16),
        )
        write_weights(folder / DEMO_TRANSFORMER.name, converted(self._weights("base"), torch.float16), note)

    def _run(self, module: nn.Module, stage: str) -> Run:
        config: LoopConfig = getattr(self.recipe, stage)
        module.train()
        return Run(module, dataclasses.replace(config, seed=self.recipe.seed + config.seed), self._file(stage))

    def _file(self, stage: str) -> Path:
        return self.folder / f"{stage}.pt"

    def _weights(self, stage: str) -> Weights:
        """A stage's averaged weights."""
        weights: Weights = torch.load(self._file(stage), weights_only=True)["average"]["weights"]
        return weights

    def _lesson(self) -> TextLesson:
        torch.manual_seed(self.recipe.seed)
        return TextLesson()

    def _vae(self) -> CogVideoXVAE:
        torch.manual_seed(self.recipe.seed)
        return newborn_vae()

    def _trainee(self) -> CogVideoXTransformer:
        torch.manual_seed(self.recipe.seed)
        return trainee()

    def _prompts(self) -> Prompts:
        lesson = self._lesson().eval()
        lesson.load_state_dict(self._weights("text"))
        return Prompts(lesson)
