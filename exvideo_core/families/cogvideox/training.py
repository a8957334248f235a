"""Post-tuning CogVideoX: a LoRA beside a frozen transformer, new or from a file.

Shapes: T latent frames, C channels, H and W latent cells, L tokens, D channels of the text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ...errors import ExVideoError
from ...lora import LoRA, LoRAPair, apply_lora, attach, new_lora, read_lora, save_lora
from ...runtime.distributed import World
from ...sampling.inputs import attention_named
from ...training.procedural.shapes import HELD_OUT, SIDE
from ...training.randomness import generator_of, uniform
from ...training.recipe import HELD_OUT_SEED, SAMPLING_STEPS, Target, TrainingRecipe
from ...training.sources import PROCEDURAL, OnPrepare, Source, check_procedural, encoding_format
from ...video import save_video
from ...weights.formats import FORMATS, converted
from .block import Block
from .checkpoint import read_text_encoder, read_transformer
from .clips import CogVideoXClip, clips_of_videos, embedded
from .files import DEMO_LORA, DEMO_TEXT_ENCODER, DEMO_TRANSFORMER, DEMO_VAE
from .objective import cogvideox_loss, noisy_timesteps, velocity_errors
from .pipeline import build_text_encoder, build_transformer, load_cogvideox
from .procedural import MovingShapes
from .training_config import CogVideoXModel, CogVideoXTraining
from .transformer import CogVideoXTransformer
from .vae import SCALING_FACTOR

# Where held-out loss is taken: from grain to where only the prompt says what to show.
HELD_OUT_TIMESTEPS = (100, 400, 700, 950)


class CogVideoXTarget(Target[CogVideoXTraining, CogVideoXClip]):
    """See `Target`; `lora` is trained beside the transformer, and `no_text_LD` embeds the empty prompt."""

    held_out_levels = HELD_OUT_TIMESTEPS

    def __init__(
        self,
        config: CogVideoXTraining,
        transformer: CogVideoXTransformer,
        lora: LoRA,
        source: Source[CogVideoXClip],
        no_text_LD: Tensor,
        device: torch.device,
    ) -> None:
        self._factors = attach(transformer, lora).factors
        super().__init__(config, transformer, self._factors, (Block,), source, device)
        self.transformer, self._no_text_LD = transformer, no_text_LD

    def loss(self, position: int, step: int) -> Tensor:
        objective = self.config.objective
        generator = generator_of(self.config.run.seed, position)
        clip = self.source.training(position, generator)
        times = self.window(clip.latents_CTHW.shape[1], step, generator)
        timestep_B = noisy_timesteps(1, objective.noisiness, generator)
        is_unprompted = uniform(generator) < objective.condition_dropout
        context_LD = self._no_text_LD if is_unprompted else clip.context_LD
        return cogvideox_loss(*self._inputs(clip, times, context_LD, timestep_B, generator))

    @torch.no_grad()
    def held_out_errors(self, item: int) -> Tensor:
        index, level = divmod(item, len(HELD_OUT_TIMESTEPS))
        clip, timestep_B = self.source.held_out(index), torch.tensor([HELD_OUT_TIMESTEPS[level]])
        times, generator = range(clip.latents_CTHW.shape[1]), generator_of(HELD_OUT_SEED, index)
        errors_BCTHW = velocity_errors(*self._inputs(clip, times, clip.context_LD, timestep_B, generator))
        return errors_BCTHW.mean(dim=(0, 1, 3, 4)).cpu()

    def _inputs(
        self, clip: CogVideoXClip, times: range, context_LD: Tensor, timestep_B: Tensor, generator: torch.Generator
    ) -> tuple[Callable[[Tensor, Tensor, Tensor], Tensor], Tensor, Tensor, Tensor, Tensor]:
        """Arguments of `cogvideox_loss`: the network on these places of the clip, and what it is given."""
        latents_CTHW = clip.latents_CTHW[:, times.start : times.stop]
        noise = torch.randn(latents_CTHW.shape, generator=generator)
        latents_BCTHW, context, noise = (
            tensor.to(self.device, torch.float32)[None] for tensor in (latents_CTHW, context_LD, noise)
        )
        places_T = torch.arange(times.start, times.stop)

        def network(x_BCTHW: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
            return self.transformer(x_BCTHW.to(self.dtype), timestep, context, places_T)

        return network, latents_BCTHW * SCALING_FACTOR, context, timestep_B.to(self.device), noise

    def export(self, weights: Mapping[str, Tensor], path: Path) -> None:
        factors = converted(weights, FORMATS[self.config.run.export_format])
        pairs = {
            name: LoRAPair(factors[f"{name}.down"], factors[f"{name}.up"], unit.alpha)
            for name, unit in self._factors.items()
        }
        save_lora(path, LoRA(pairs, source=path.name))

    def sample(self, exported: Path, video: Path) -> None:
        model, data, clip = self.config.model, self.config.data, self.source.held_out(0)
        transformer, vae, _ = paths(model)
        pipeline = load_cogvideox(transformer, vae=vae, device=self.device)
        apply_lora(pipeline, exported)
        result = pipeline(
            num_frames=model.num_frames,
            width=data.width,
            height=data.height,
            num_inference_steps=SAMPLING_STEPS,
            prompt_embeds=clip.context_LD[None],
            negative_prompt_embeds=self._no_text_LD[None],
            guidance_scale=3.0 if model.transformer == "demo" else 6.0,
        )
        save_video(result.frames, video, fps=clip.fps)


def paths(model: CogVideoXModel) -> tuple[Path, Path, Path]:
    """Files of transformer, VAE and text encoder."""
    return (
        DEMO_TRANSFORMER if model.transformer == "demo" else Path(model.transformer),
        DEMO_VAE if model.vae == "demo" else Path(model.vae),
        DEMO_TEXT_ENCODER if model.text_encoder == "demo" else Path(model.text_encoder),
    )


def build_base(config: CogVideoXTraining) -> CogVideoXTransformer:
    """The transformer, in the file's own format; ExVideoError if it is the image-to-video one."""
    transformer = build_transformer(read_transformer(paths(config.model)[0]), attention_named(config.run.attention))
    if transformer.config.in_channels != transformer.config.out_channels:
        raise ExVideoError(
            f"{config.model.transformer} is CogVideoX's image-to-video transformer; training needs the "
            f"text-to-video one (THUDM/CogVideoX-5b)."
        )
    return transformer


def starting_lora(config: CogVideoXTraining, transformer: CogVideoXTransformer) -> LoRA:
    """The LoRA to train, one from a file or a new one that changes nothing; ExVideoError if a target names no layer."""
    model = config.model
    if model.lora:
        return read_lora(DEMO_LORA if model.lora == "demo" else model.lora)
    try:
        return new_lora(
            transformer, model.targets, rank=model.rank, alpha=model.alpha, generator=generator_of(config.run.seed, 0)
        )
    except ValueError as error:
        raise ExVideoError(
            f"model.targets: {error}; {', '.join(CogVideoXModel().targets)} are the usual ones."
        ) from error


def build_target(config: CogVideoXTraining, world: World, on_prepare: OnPrepare | None = None) -> CogVideoXTarget:
    """CogVideoX's transformer with a LoRA, and clips."""
    _, vae, text = paths(config.model)
    if config.data.source == PROCEDURAL:
        check_procedural(config.data, SIDE, len(HELD_OUT))
        text_encoder = build_text_encoder(read_text_encoder(text)).to(encoding_format(world.device))
        source: Source[CogVideoXClip] = MovingShapes(text_encoder, config.model.num_frames, config.data.held_out)
        no_text_LD = embedded(text_encoder, "")
    else:
        source, no_text_LD = clips_of_videos(config, vae, text, world, on_prepare)
    if world.device.type == "cuda":
        torch.cuda.empty_cache()  # of the encoders, which are gone
    transformer = build_base(config)
    return CogVideoXTarget(config, transformer, starting_lora(config, transformer), source, no_text_LD, world.device)


def parts(config: CogVideoXTraining) -> tuple[CogVideoXTransformer, Mapping[str, nn.Module]]:
    """The transformer, and the factors of the LoRA."""
    transformer = build_base(config)
    return transformer, attach(transformer, starting_lora(config, transformer)).factors


RECIPE = TrainingRecipe(config=CogVideoXTraining, build=build_target, parts=parts)
