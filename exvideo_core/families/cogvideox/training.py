"""Post-tuning CogVideoX: a LoRA beside a frozen transformer, new or from a file.

Shapes: T latent frames, C channels, H and W latent cells, L tokens, D channels of the text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ...errors import ExVideoError
from ...lora import LoRA, LoRAPair, apply_lora, attach, fit_lora, new_lora, read_lora, save_lora
from ...runtime.distributed import World
from ...sampling.inputs import attention_named
from ...training.clips import Source
from ...training.freezing import HELD_OUT_SEED, SAMPLING_STEPS, checkpoint_blocks, freeze
from ...training.procedural.shapes import SIDE, all_words
from ...training.randomness import chance, generator_of, window
from ...training.recipe import OnPrepare, Sizes, TrainingRecipe
from ...training.sources import PROCEDURAL, check_procedural, encoding_format
from ...video import save_video
from ...weights.assign import shapes_of
from ...weights.formats import FORMATS, converted
from .block import Block
from .checkpoint import read_text_encoder, read_transformer
from .clips import CogVideoXClip, clips_of_videos, embedded
from .files import DEMO_LORA, DEMO_TEXT_ENCODER, DEMO_TRANSFORMER, DEMO_VAE
from .geometry import GEOMETRY
from .objective import cogvideox_loss, noisy_timesteps, velocity_errors
from .pipeline import build_text_encoder, build_transformer, load_cogvideox
from .procedural import MovingShapes
from .training_config import CogVideoXModel, CogVideoXTraining
from .transformer import CogVideoXTransformer
from .vae import SCALING_FACTOR

# Where held-out loss is taken: from grain to where only the prompt says what to show.
HELD_OUT_TIMESTEPS = (100, 400, 700, 950)


class CogVideoXTarget:
    """See `Target`.

    Args:
        config: of the run.
        transformer: the base.
        lora: what is trained.
        source: the clips.
        no_text_LD: embedding of the empty prompt.
        device: where to compute.
    """

    def __init__(
        self,
        config: CogVideoXTraining,
        transformer: CogVideoXTransformer,
        lora: LoRA,
        source: Source[CogVideoXClip],
        no_text_LD: Tensor,
        device: torch.device,
    ) -> None:
        self.config, self.source, self.device = config, source, device
        self.transformer, self._no_text_LD = transformer, no_text_LD
        self.dtype = FORMATS[config.run.precision]
        self._attached = attach(transformer, lora)
        self.units: dict[str, nn.Module] = dict(self._attached.factors)
        freeze(transformer, self.units.values(), self.dtype, device)
        self.num_frozen = sum(p.numel() for p in transformer.parameters())
        self.base_frames = GEOMETRY.latent_frames(config.model.base_frames)
        if config.run.checkpointing:
            checkpoint_blocks(module for module in transformer.modules() if isinstance(module, Block))

    @property
    def num_held_out(self) -> int:
        return self.source.num_held_out * len(HELD_OUT_TIMESTEPS)

    def loss(self, position: int, step: int) -> Tensor:
        """See `Target`."""
        objective, windows = self.config.objective, self.config.data.windows
        generator = generator_of(self.config.run.seed, position)
        clip = self.source.training(position, generator)
        length = clip.latents_CTHW.shape[1]
        times = window(length, windows[step % len(windows)] if windows else length, generator)
        timestep_B = noisy_timesteps(1, objective.noisiness, generator)
        is_unprompted = chance(objective.condition_dropout, generator)
        latents_CTHW = clip.latents_CTHW[:, times.start : times.stop]
        noise = torch.randn(latents_CTHW.shape, generator=generator)
        return cogvideox_loss(
            self._network(times),
            self._placed(latents_CTHW) * SCALING_FACTOR,
            self._placed(self._no_text_LD if is_unprompted else clip.context_LD),
            timestep_B.to(self.device),
            self._placed(noise),
        )

    @torch.no_grad()
    def held_out_errors(self, item: int) -> Tensor:
        """See `Target`."""
        index, level = divmod(item, len(HELD_OUT_TIMESTEPS))
        clip = self.source.held_out(index)
        noise = torch.randn(clip.latents_CTHW.shape, generator=generator_of(HELD_OUT_SEED, index))
        errors_BCTHW = velocity_errors(
            self._network(range(clip.latents_CTHW.shape[1])),
            self._placed(clip.latents_CTHW) * SCALING_FACTOR,
            self._placed(clip.context_LD),
            torch.tensor([HELD_OUT_TIMESTEPS[level]], device=self.device),
            self._placed(noise),
        )
        return errors_BCTHW.mean(dim=(0, 1, 3, 4)).cpu()

    def export(self, weights: Mapping[str, Tensor], path: Path) -> None:
        """See `Target`."""
        factors = converted(weights, FORMATS[self.config.run.export_format])
        pairs = {
            name: LoRAPair(factors[f"{name}.down"], factors[f"{name}.up"], unit.alpha)
            for name, unit in self._attached.factors.items()
        }
        save_lora(path, LoRA(pairs, source=path.name))

    def sample(self, exported: Path, video: Path) -> None:
        """See `Target`."""
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

    def _placed(self, tensor: Tensor) -> Tensor:
        """A batch of one."""
        return tensor.to(self.device, torch.float32)[None]

    def _network(self, times: range) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """The network on these places of the clip."""
        places_T = torch.arange(times.start, times.stop)
        return lambda x, timestep, context: self.transformer(x.to(self.dtype), timestep, context, places_T)


def paths(model: CogVideoXModel) -> tuple[Path, Path, Path]:
    """Files of transformer, VAE and text encoder."""
    demos = (
        DEMO_TRANSFORMER,
        DEMO_VAE,
        DEMO_TEXT_ENCODER,
    )
    given = (model.transformer, model.vae, model.text_encoder)
    return tuple(  # type: ignore[return-value]  # three
        demo if name == "demo" else Path(name) for name, demo in zip(given, demos, strict=True)
    )


def build_base(config: CogVideoXTraining) -> CogVideoXTransformer:
    """The transformer, in the file's own format.

    Raises:
        CheckpointError: the file is damaged, or something else.
        ExVideoError: it is the image-to-video transformer.
    """
    transformer = build_transformer(read_transformer(paths(config.model)[0]), attention_named(config.run.attention))
    if transformer.config.in_channels != transformer.config.out_channels:
        raise ExVideoError(
            f"{config.model.transformer} is CogVideoX's image-to-video transformer; training needs the "
            f"text-to-video one (THUDM/CogVideoX-5b)."
        )
    return transformer


def starting_lora(config: CogVideoXTraining, transformer: CogVideoXTransformer) -> LoRA:
    """The LoRA to train: a new one that changes nothing, or one from a file.

    Raises:
        ExVideoError: a target names no layer.
    """
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
    _, vae, text_encoder = paths(config.model)
    if config.data.source == PROCEDURAL:
        source, no_text_LD = _moving_shapes(config, text_encoder, world)
    else:
        source, no_text_LD = clips_of_videos(config, vae, text_encoder, world, on_prepare)
    if world.device.type == "cuda":
        torch.cuda.empty_cache()  # of the encoders, which are gone
    transformer = build_base(config)
    lora = starting_lora(config, transformer)
    return CogVideoXTarget(config, transformer, lora, source, no_text_LD, world.device)


def _moving_shapes(config: CogVideoXTraining, path: Path, world: World) -> tuple[Source[CogVideoXClip], Tensor]:
    check_procedural(config.data, SIDE, sum(words.is_held_out for words in all_words()))
    text_encoder = build_text_encoder(read_text_encoder(path)).to(encoding_format(world.device))
    source = MovingShapes(text_encoder, config.model.num_frames, config.data.held_out)
    return source, embedded(text_encoder, "")


def count(config: CogVideoXTraining) -> Sizes:
    """Parameters of the LoRA and of the transformer."""
    transformer = build_base(config)
    lora = starting_lora(config, transformer)
    shapes = shapes_of(dict(transformer.named_parameters()))
    trained: dict[str, int] = {}
    for name, pair in fit_lora(lora, shapes).items():
        trained |= {f"{name}.down": math.prod(pair.down.shape), f"{name}.up": math.prod(pair.up.shape)}
    return Sizes(trained=trained, frozen=sum(p.numel() for p in transformer.parameters()))


RECIPE = TrainingRecipe(config=CogVideoXTraining, build=build_target, count=count)
